//! Error details of the public API: which field is at fault, and when to try again.
//!
//! The messages are google.rpc's (`google/rpc/error_details.proto`), so that any client's helpers read them.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// INVALID_ARGUMENT naming the field, as `google.rpc.BadRequest`.
pub fn bad_request(field: &str, problem: &str) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, problem);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {problem}"), details)
}

/// A refusal that may pass, with `google.rpc.RetryInfo`.
pub fn retry_after(code: Code, problem: &str, delay: Duration) -> Status {
    Status::with_error_details(code, problem, ErrorDetails::with_retry_info(Some(delay)))
}

/// The delay that [`retry_after`] put in.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// Fields and problems that [`bad_request`] put in.
pub fn violations(status: &Status) -> Vec<(String, String)> {
    let bad = status.get_details_bad_request();
    bad.map(|bad| bad.field_violations.into_iter().map(|v| (v.field, v.description)).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_say_what_they_were_given() {
        let status = bad_request("messages[1].parts[0].image", "truncated PNG");
        assert_eq!(violations(&status), [("messages[1].parts[0].image".into(), "truncated PNG".into())]);
        let status = retry_after(Code::ResourceExhausted, "the queue is full", Duration::from_millis(1500));
        assert_eq!(retry_delay(&status), Some(Duration::from_millis(1500)));
    }
}
