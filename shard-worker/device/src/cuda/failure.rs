//! What the driver and its libraries answer, as errors of the device.

use cudarc::driver::{DriverError, sys};

use crate::DeviceError;

/// The driver's refusal of what was tried.
pub(super) fn driver(operation: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| {
        let broken = is_broken(error.0);
        let error = describe(error);
        if broken { DeviceError::Broken { operation, error } } else { DeviceError::Driver { operation, error } }
    }
}

/// Whether every later call of this process fails as well ("CUDA Driver API", `CUresult`: "the process must be terminated").
fn is_broken(answer: sys::CUresult) -> bool {
    use sys::CUresult::*;
    matches!(
        answer,
        CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_UNKNOWN
    )
}

fn describe(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| text.ok().map(|text| text.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(what)) => format!("{name}: {what}"),
        (name, _) => name.unwrap_or_else(|| format!("{:?}", error.0)),
    }
}

/// A library that could not be opened.
pub(super) fn missing(library: &'static str, hint: &'static str) -> DeviceError {
    DeviceError::Library { library, hint }
}
