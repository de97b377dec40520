//! What can be wrong with a request: which field, what about it, and what sort of refusal it is.
//!
//! Every refusal is a [`RequestError`]; `error/status.rs` alone turns it into a gRPC status, `http/error.rs` alone
//! into an OpenAI error.

mod status;

use std::time::Duration;

use tessera_types::SamplingError;

/// Why a request was not, or not fully, served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct RequestError {
    /// What sort of refusal it is.
    pub(crate) kind: ErrorKind,
    /// The field at fault as the gRPC API names it, such as `messages[1].parts[0].image`.
    pub(crate) field: Option<String>,
    /// What is wrong, in words.
    pub(crate) problem: String,
    /// When trying again may help.
    pub(crate) retry_after: Option<Duration>,
}

/// The sort of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The request is wrong and will stay so.
    Invalid,
    /// The prompt does not fit in the model's context.
    PromptTooLong,
    /// Another model than the one served was asked for.
    ModelNotFound,
    /// The body is larger than the server reads.
    TooLarge,
    /// No key, or not one of the server's.
    Unauthenticated,
    /// The server has as much to do as it takes on.
    Exhausted,
    /// No replica can run it now.
    Unavailable,
    /// The time the client or the server gave it is over.
    DeadlineExceeded,
    /// The client went away.
    Cancelled,
    /// The server erred.
    Internal,
}

impl RequestError {
    fn new(kind: ErrorKind, problem: impl Into<String>) -> Self {
        Self { kind, field: None, problem: problem.into(), retry_after: None }
    }

    /// A wrong field.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorKind::Invalid, problem) }
    }

    /// A body that cannot be read at all.
    pub(crate) fn unreadable(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, problem)
    }

    /// A prompt of `tokens` where `context` is all there is, the answer included.
    pub(crate) fn prompt_too_long(field: &str, tokens: usize, context: usize) -> Self {
        let problem = format!("the prompt has {tokens} tokens; the context has {context}, and the answer needs one at least");
        Self { field: Some(field.into()), ..Self::new(ErrorKind::PromptTooLong, problem) }
    }

    /// Text of `bytes` where the `context` holds no more than `limit`, whatever the text is.
    pub(crate) fn text_too_long(field: &str, bytes: usize, limit: usize, context: usize) -> Self {
        let problem = format!("the text has {bytes} bytes; the context has {context} tokens, which are {limit} bytes at most");
        Self { field: Some(field.into()), ..Self::new(ErrorKind::PromptTooLong, problem) }
    }

    /// Another model than `served`.
    pub(crate) fn model_not_found(asked: &str, served: &str) -> Self {
        let asked: String = asked.chars().take(100).collect();
        let problem = format!("the model `{asked}` is not served here; `{served}` is");
        Self { field: Some("model".into()), ..Self::new(ErrorKind::ModelNotFound, problem) }
    }

    /// A body over `limit` bytes.
    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(ErrorKind::TooLarge, format!("the request is larger than the server's limit of {limit} bytes"))
    }

    /// No key, or a wrong one.
    pub(crate) fn unauthenticated(problem: &str) -> Self {
        Self::new(ErrorKind::Unauthenticated, problem)
    }

    /// A refusal for load.
    pub(crate) fn exhausted(problem: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Exhausted, problem) }
    }

    /// A refusal for want of a replica.
    pub(crate) fn unavailable(problem: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Unavailable, problem) }
    }

    /// Out of time while doing `what`.
    pub(crate) fn deadline(what: &str) -> Self {
        Self::new(ErrorKind::DeadlineExceeded, format!("the request's time was over while {what}"))
    }

    /// The server's own fault.
    pub(crate) fn internal(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, problem)
    }
}

impl From<SamplingError> for RequestError {
    fn from(error: SamplingError) -> Self {
        Self::invalid(format!("sampling.{}", error.field), format!("must be {}, got {}", error.expected, error.got))
    }
}
