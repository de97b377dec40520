//! The one place where refusals become gRPC statuses, and a replica's statuses become refusals.

use std::time::Duration;

use tessera_proto::{bad_request, retry_after, retry_delay, violations};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{ErrorKind, RequestError};

impl ErrorKind {
    fn code(self) -> Code {
        match self {
            Self::Invalid | Self::PromptTooLong | Self::TooLarge => Code::InvalidArgument,
            Self::ModelNotFound => Code::NotFound,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Cancelled => Code::Cancelled,
            Self::Internal => Code::Internal,
        }
    }
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        let code = error.kind.code();
        match (&error.field, error.retry_after) {
            (Some(field), _) if code == Code::InvalidArgument => bad_request(field, &error.problem),
            (Some(field), None) => {
                let details = ErrorDetails::with_bad_request_violation(field, &error.problem);
                Status::with_error_details(code, format!("{field}: {}", error.problem), details)
            }
            (_, Some(delay)) => retry_after(code, &error.problem, delay),
            _ => Status::new(code, error.problem),
        }
    }
}

impl From<Status> for RequestError {
    fn from(status: Status) -> Self {
        let (field, problem) = match violations(&status).into_iter().next() {
            Some((field, problem)) => (Some(field), problem),
            None => (None, status.message().to_owned()),
        };
        let kind = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
            Code::ResourceExhausted => ErrorKind::Exhausted,
            Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Code::Unavailable | Code::Aborted => ErrorKind::Unavailable,
            Code::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Internal,
        };
        // A refusal that may pass always says when to come back.
        let may_pass = matches!(kind, ErrorKind::Exhausted | ErrorKind::Unavailable);
        let retry_after = retry_delay(&status).or(may_pass.then_some(Duration::from_secs(1)));
        Self { kind, field, problem, retry_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_an_invalid_argument_that_names_it() {
        let status = Status::from(RequestError::invalid("sampling.top_p", "must be at most 1"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(violations(&status), [("sampling.top_p".to_owned(), "must be at most 1".to_owned())]);
    }

    #[test]
    fn a_refusal_for_load_says_when_to_come_back() {
        let status = Status::from(RequestError::exhausted("full", Duration::from_millis(700)));
        assert_eq!((status.code(), retry_delay(&status)), (Code::ResourceExhausted, Some(Duration::from_millis(700))));
    }

    #[test]
    fn a_replicas_refusal_keeps_its_field_and_its_delay() {
        for error in [
            RequestError::invalid("prompt", "too long"),
            RequestError::exhausted("the queue is full", Duration::from_secs(3)),
            RequestError::deadline("waiting"),
        ] {
            assert_eq!(RequestError::from(Status::from(error.clone())), error);
        }
    }
}
