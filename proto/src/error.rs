//! A message that does not mean anything in the domain.

use std::fmt::Display;

use crate::bad_request;

/// A wire message that could not be turned into its domain type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WireError {
    /// The path of the field at fault within the message, as `start[2].images[0].key`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl WireError {
    pub(crate) fn new(field: &str, problem: impl Into<String>) -> Self {
        Self { field: field.to_owned(), problem: problem.into() }
    }

    pub(crate) fn missing(field: &str) -> Self {
        Self::new(field, "missing")
    }

    /// The same, seen from the message whose field `outer` holds this one.
    pub(crate) fn within(self, outer: impl Display) -> Self {
        Self { field: format!("{outer}.{}", self.field), ..self }
    }
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        bad_request(&error.field, &error.problem)
    }
}
