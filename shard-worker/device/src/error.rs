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
    /// A library that the device works through is not there.
    #[error("{library} cannot be opened: {hint}; it is sought in LD_LIBRARY_PATH and where the system keeps libraries")]
    Library {
        /// Its name.
        library: &'static str,
        /// What it is for, or where it comes from.
        hint: &'static str,
    },
    /// There are fewer devices.
    #[error("there is no GPU {asked}: this process sees {there}")]
    NoDevice {
        /// The one asked for, from 0.
        asked: usize,
        /// How many there are.
        there: usize,
    },
    /// There is no code that the device can run.
    #[error("kernels: {0}")]
    Kernels(String),
    /// The device's driver failed at something.
    #[error("{operation}: {error}")]
    Driver {
        /// What was tried.
        operation: &'static str,
        /// What the driver said.
        error: String,
    },
    /// The device is lost to this process: whatever it is asked for fails from now on.
    #[error("{operation}: {error}; this process can use the GPU no more")]
    Broken {
        /// What was tried.
        operation: &'static str,
        /// What the driver said.
        error: String,
    },
    /// Other devices and this one do not reach each other's memory; the sentence says why.
    #[error("no peers: {0}")]
    Peers(String),
    /// Only other numbers are known to the device.
    #[error("{device} computes in {known} alone, and was asked for {asked}")]
    Dtype {
        /// The device.
        device: &'static str,
        /// What it knows.
        known: &'static str,
        /// What it was asked for.
        asked: String,
    },
}
