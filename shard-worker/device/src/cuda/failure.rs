//! What the driver and its libraries answer, as errors of the device.

use cudarc::driver::DriverError;

use crate::DeviceError;

/// The driver's refusal of what was tried.
pub(super) fn driver(operation: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError::Driver { operation, error: describe(error) }
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
