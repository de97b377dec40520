//! A message that does not mean anything in the domain.

/// A wire message that could not be turned into its domain type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WireError {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl WireError {
    pub(crate) fn missing(field: &'static str) -> Self {
        Self { field, problem: "missing".into() }
    }
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
