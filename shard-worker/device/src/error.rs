//! What a device can fail with.

/// A device's failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Shapes that do not fit: a bug in the caller.
    #[error("{operation}: {detail}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// What does not fit.
        detail: String,
    },
    /// Memory ran out.
    #[error("{what} needs {bytes} bytes, which {device} does not have")]
    OutOfMemory {
        /// What was to be allocated.
        what: String,
        /// Its size.
        bytes: usize,
        /// The device.
        device: String,
    },
    /// A worker thread panicked.
    #[error("a compute thread failed: {0}")]
    Thread(String),
}
