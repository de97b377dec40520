//! The one place where refusals and ends become gRPC statuses.

use std::time::Duration;

use tessera_engine::Refusal;
use tessera_proto::{bad_request, retry_after};
use tonic::{Code, Status};

/// When to look again for a replica that is away.
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn refusal(refusal: &Refusal) -> Status {
    let problem = refusal.to_string();
    match refusal {
        Refusal::QueueFull { retry_after: delay, .. } => retry_after(Code::ResourceExhausted, &problem, *delay),
        Refusal::PromptTooLong { .. } => bad_request("prompt", &problem),
        Refusal::DeadlineExceeded => Status::deadline_exceeded(problem),
        Refusal::ImageTooLarge { index, .. } => bad_request(&format!("image[{index}]"), &problem),
        Refusal::Malformed { field, problem } => bad_request(field, problem),
    }
}

/// The replica cannot serve now; another may.
pub(crate) fn away(problem: &str) -> Status {
    retry_after(Code::Unavailable, problem, SOON)
}

/// Any replica with these weights would say the same.
pub(crate) fn broken() -> Status {
    Status::data_loss("the model's logits are not numbers; its weights may be damaged")
}

pub(crate) fn deadline() -> Status {
    Status::deadline_exceeded("the request's deadline passed before it was done")
}
