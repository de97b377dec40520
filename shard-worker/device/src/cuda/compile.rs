//! Compiling the kernels on the machine itself, where no image made for its GPU is at hand.
#![allow(unsafe_code)]

use std::ffi::CString;

use cudarc::nvrtc::{result, sys};

use super::failure::missing;
use crate::DeviceError;

/// The kernels' sources, in the order of `all.cu`.
const SOURCES: &str = concat!(
    include_str!("../../cuda/kernels/common.cuh"),
);

/// PTX for a device of this compute capability, ending with a zero.
pub(super) fn ptx(major: u32, minor: u32) -> Result<Vec<u8>, DeviceError> {
    // SAFETY: asks the loader alone. Any other call panics where the library is missing.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing("libnvrtc.so", "it compiles kernels where none made for the GPU lie beside the program, in `cubins`"));
    }
    let failed = |what: &str, error: &dyn std::fmt::Debug| DeviceError::Kernels(format!("{what}: {error:?}"));
    let source = CString::new(SOURCES).map_err(|error| failed("sources", &error))?;
    let program = result::create_program(&source, None).map_err(|error| failed("compiling", &error))?;
    let options = [format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".into(), "-default-device".into()];
    // SAFETY: the program was just made, and is destroyed once, below.
    let compiled = unsafe {
        let compiled = result::compile_program(program, &options).map_err(|error| {
            let log = result::get_program_log(program).unwrap_or_default();
            let log: String = log.into_iter().take_while(|c| *c != 0).map(|c| char::from(c as u8)).collect();
            failed(&format!("compiling for {major}.{minor}: {log}"), &error)
        });
        let ptx = compiled.and_then(|()| result::get_ptx(program).map_err(|error| failed("reading PTX", &error)));
        let _ = result::destroy_program(program);
        ptx
    }?;
    Ok(compiled.into_iter().map(|c| c as u8).chain([0]).collect())
}
