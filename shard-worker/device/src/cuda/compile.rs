//! Compiling the kernels on the machine itself, where no image made for its GPU is at hand.
#![allow(unsafe_code)]

use std::ffi::CString;

use cudarc::nvrtc::{result, sys};

use super::failure::missing;
use crate::DeviceError;

macro_rules! sources {
    ($($file:literal),* $(,)?) => {
        /// The kernels' sources: the files that `all.cu` includes, in its order.
        const SOURCES: &str = concat!($(include_str!(concat!("../../cuda/kernels/", $file, ".cuh"))),*);
        #[cfg(test)]
        const FILES: &[&str] = &[$($file),*];
    };
}

sources! {
    "ptx",
    "common",
    "rows",
    "embed",
    "norm",
    "elementwise",
    "rotary",
    "dummy",
    "logits",
    "select",
    "sample",
    "logprobs",
    "pieces",
    "gemm",
    "gemm_e4m3",
    "gemm_small",
    "gemm_tile",
    "attention",
    "attention_split",
    "attention_chunk",
}

/// PTX for a device of this compute capability, ending with a zero.
pub(super) fn ptx(major: u32, minor: u32) -> Result<Vec<u8>, DeviceError> {
    // SAFETY: asks the loader alone. Any other call panics where the library is missing.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing(
            "libnvrtc.so",
            "it compiles kernels where none made for the GPU lie beside the program, in `cubins`",
        ));
    }
    let failed = |what: &str, error: &dyn std::fmt::Debug| DeviceError::Kernels(format!("{what}: {error:?}"));
    let source = CString::new(SOURCES).map_err(|error| failed("sources", &error))?;
    let program = result::create_program(&source, None).map_err(|error| failed("compiling", &error))?;
    let options = [
        format!("--gpu-architecture=compute_{major}{minor}"),
        "--std=c++17".into(),
        "--device-as-default-execution-space".into(),
    ];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_here_is_what_all_cu_includes() {
        let all = include_str!("../../cuda/kernels/all.cu");
        let included: Vec<_> = all.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix(".cuh\"")).collect();
        assert_eq!(included, FILES);
    }
}
