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
    "e4m3",
    "rows",
    "embed",
    "norm",
    "elementwise",
    "cache",
    "rotary",
    "peer",
    "dummy",
    "logits",
    "select",
    "token_weights",
    "sample",
    "logprobs",
    "pieces",
    "gemm",
    "gemm_e4m3",
    "gemm_small",
    "gemm_tile",
    "gemm_parts",
    "attention",
    "attention_split",
    "attention_chunk",
}

/// Code for a device of this compute capability. A cubin, so that a compiler newer than the driver will do; where the compiler
/// is older than the device, PTX of what it knows, which the driver compiles.
pub(super) fn image((major, minor): (u32, u32)) -> Result<Vec<u8>, DeviceError> {
    // SAFETY: asks the loader alone. Any other call panics where the library is missing.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing(
            "libnvrtc.so",
            "it compiles kernels where none made for the GPU lie beside the program, in `cubins`",
        ));
    }
    let wanted = 10 * major + minor;
    match newest_known(wanted) {
        Some(known) if known != wanted => compile(&format!("compute_{known}"), Program::ptx),
        _ => compile(&format!("sm_{wanted}"), Program::cubin),
    }
}

/// The newest architecture that the compiler makes code for and that is not newer than `wanted`.
fn newest_known(wanted: u32) -> Option<u32> {
    let mut count = 0;
    // SAFETY: the library is there; it writes one number.
    unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) }.result().ok()?;
    let mut known = vec![0; usize::try_from(count).ok()?];
    // SAFETY: it writes as many numbers as it just said.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result().ok()?;
    known.into_iter().filter_map(|arch| u32::try_from(arch).ok()).filter(|arch| *arch <= wanted).max()
}

fn failed<E: std::fmt::Debug>(what: &str) -> impl Fn(E) -> DeviceError {
    move |error| DeviceError::Kernels(format!("{what}: {error:?}"))
}

/// The sources, compiled for an architecture.
fn compile(architecture: &str, code: impl Fn(&Program) -> Result<Vec<u8>, DeviceError>) -> Result<Vec<u8>, DeviceError> {
    let source = CString::new(SOURCES).map_err(failed("sources"))?;
    let program = Program(result::create_program(&source, None).map_err(failed("compiling"))?);
    let options =
        [format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "--device-as-default-execution-space".into()];
    // SAFETY: the program lives.
    let compiled = unsafe { result::compile_program(program.0, &options) };
    compiled.map_err(|error| failed(&format!("compiling for {architecture}: {}", program.log()))(error))?;
    code(&program)
}

/// A program of the compiler's, destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> String {
        // SAFETY: the program lives.
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        log.into_iter().take_while(|c| *c != 0).map(|c| char::from(c as u8)).collect()
    }

    fn ptx(&self) -> Result<Vec<u8>, DeviceError> {
        // SAFETY: the program lives.
        let ptx = unsafe { result::get_ptx(self.0) }.map_err(failed("reading PTX"))?;
        Ok(ptx.into_iter().map(|c| c as u8).collect())
    }

    fn cubin(&self) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = 0;
        // SAFETY: the program lives; the library writes one number.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut bytes) }.result().map_err(failed("reading a cubin"))?;
        let mut cubin = vec![0_u8; bytes];
        // SAFETY: there is room for as many bytes as the library just said.
        unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) }.result().map_err(failed("reading a cubin"))?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Says so where there is no compiler to ask; needs no GPU.
    #[test]
    fn a_compiler_makes_a_cubin_for_devices_it_knows_and_ptx_for_newer_ones() {
        // SAFETY: asks the loader alone.
        if !unsafe { sys::is_culib_present() } {
            // Past the harness, which shows nothing of a test that passes.
            let _ = writeln!(std::io::stderr(), "skipped: no libnvrtc here, so nothing was compiled");
            return;
        }
        let cubin = image((8, 9)).unwrap();
        assert!(cubin.starts_with(b"\x7fELF"));
        let newest = newest_known(999).unwrap();
        let ptx = String::from_utf8_lossy(&image((99, 0)).unwrap()).into_owned();
        assert!(ptx.contains(&format!(".target sm_{newest}")), "{newest}");
        for file in ["attend_split_128", "gemm_part"] {
            assert!(ptx.contains(&format!(".entry {file}(")), "{file}");
            assert!(cubin.windows(file.len()).any(|bytes| bytes == file.as_bytes()), "{file}");
        }
    }

    #[test]
    fn what_is_compiled_here_is_what_all_cu_includes() {
        let all = include_str!("../../cuda/kernels/all.cu");
        let included: Vec<_> = all.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix(".cuh\"")).collect();
        assert_eq!(included, FILES);
    }
}
