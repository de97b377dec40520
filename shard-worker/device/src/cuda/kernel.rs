//! The kernels: where their code comes from, and how they are launched.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_void},
    fs,
    io::ErrorKind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cudarc::driver::{result, sys};
use tracing::{info, warn};

use super::{compile, context::Context, failure::driver, image};
use crate::DeviceError;

/// Shared memory that a block may have without asking.
const SHARED_UNASKED: u32 = 48 << 10;

/// Rows from which a block each is enough, and numbers of a row for each of the blocks that share it where there are fewer.
const FEW_ROWS: usize = 64;
const NUMBERS_OF_A_BLOCK: usize = 2048;

/// Kernels wait for the ones ahead where their PTX was made for this compute capability or a newer one (`ptx.cuh`).
const WAITING_PTX: i32 = 90;

macro_rules! kernels {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A kernel of `cuda/kernels`, where each says what it takes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kernel { $($variant),* }

        impl Kernel {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $name)),*];
        }
    };
}

kernels! {
    Embed = "embed",
    CopyRowsFull = "copy_rows_ff",
    CopyRowsWiden = "copy_rows_wf",
    CopyRowsWorking = "copy_rows_ww",
    RmsNormWorking = "rms_norm_fw",
    RmsNormFull = "rms_norm_ff",
    AddRmsNorm = "add_rms_norm",
    Add = "add",
    AddBias = "add_bias",
    Swiglu = "swiglu",
    GeluBias = "gelu_bias",
    Rotate = "rotate",
    RotateStore = "rotate_store",
    RotateStore8 = "rotate_store8",
    GemmSmallWorking = "gemm_small_w",
    GemmSmallFull = "gemm_small_f",
    GemmTileWorking = "gemm_tile_w",
    GemmTileFull = "gemm_tile_f",
    GemmWideWorking = "gemm_wide_w",
    GemmWideFull = "gemm_wide_f",
    GemmPart = "gemm_part",
    GemmJoinWorking = "gemm_join_w",
    GemmJoinFull = "gemm_join_f",
    QuantiseRows = "quantise_rows",
    GemmSmall8Working = "gemm_small8_w",
    GemmSmall8Full = "gemm_small8_f",
    GemmTile8Working = "gemm_tile8_w",
    GemmTile8Full = "gemm_tile8_f",
    GemmWide8Working = "gemm_wide8_w",
    GemmWide8Full = "gemm_wide8_f",
    GemmPart8 = "gemm_part8",
    AttendSplit32 = "attend_split_32",
    AttendSplit64 = "attend_split_64",
    AttendSplit128 = "attend_split_128",
    AttendSplit8Of32 = "attend_split8_32",
    AttendSplit8Of64 = "attend_split8_64",
    AttendSplit8Of128 = "attend_split8_128",
    AttendCombine32 = "attend_combine_32",
    AttendCombine64 = "attend_combine_64",
    AttendCombine128 = "attend_combine_128",
    AttendChunk32 = "attend_chunk_32",
    AttendChunk64 = "attend_chunk_64",
    AttendChunk128 = "attend_chunk_128",
    AttendChunk8Of32 = "attend_chunk8_32",
    AttendChunk8Of64 = "attend_chunk8_64",
    AttendChunk8Of128 = "attend_chunk8_128",
    AttendImage32 = "attend_image_32",
    AttendImage64 = "attend_image_64",
    AttendImage128 = "attend_image_128",
    SumOverRanksWorking = "sum_over_ranks_w",
    SumOverRanksFull = "sum_over_ranks_f",
    EditLogits = "edit_logits",
    Sample = "sample",
    RestoreLogits = "restore_logits",
    Logprobs = "logprobs",
    Widen = "widen",
    Narrow = "narrow",
    FillDummy = "fill_dummy",
}

/// An argument, as its eight lowest bytes.
#[derive(Clone, Copy)]
pub(super) struct Arg(u64);

impl From<u64> for Arg {
    fn from(address: u64) -> Self {
        Self(address)
    }
}

impl From<i64> for Arg {
    fn from(number: i64) -> Self {
        Self(number as u64)
    }
}

impl From<i32> for Arg {
    fn from(number: i32) -> Self {
        Self(u64::from(number as u32))
    }
}

impl From<f32> for Arg {
    fn from(number: f32) -> Self {
        Self(u64::from(number.to_bits()))
    }
}

/// How many blocks of how many threads, with how much dynamic shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) grid: [usize; 3],
    pub(super) block: u32,
    pub(super) shared: usize,
}

impl Geometry {
    /// A block a row.
    pub(super) fn rows(rows: usize, block: u32) -> Self {
        Self { grid: [rows, 1, 1], block, shared: 0 }
    }

    /// Rows of so many numbers that blocks share, where there are too few rows to keep a device busy; of the kernels that may be
    /// launched so. Eight numbers are then left to a thread.
    pub(super) fn shared_rows(rows: usize, cols: usize) -> Self {
        let blocks = if rows < FEW_ROWS { cols.div_ceil(NUMBERS_OF_A_BLOCK).max(1) } else { 1 };
        Self { grid: [rows, blocks, 1], block: 256, shared: 0 }
    }

    /// Blocks of 256 threads that take `each` numbers of `numbers`.
    pub(super) fn numbers(numbers: usize, each: usize) -> Self {
        Self::rows(numbers.div_ceil(each), 256)
    }

    /// As the driver wants it.
    fn on(
        self,
        stream: sys::CUstream,
        attrs: *mut sys::CUlaunchAttribute,
        count: u32,
    ) -> Result<sys::CUlaunchConfig, DeviceError> {
        let [x, y, z] = self.grid.map(u32::try_from);
        let (Ok(x), Ok(y), Ok(z)) = (x, y, z) else {
            return Err(DeviceError::Shape { operation: "launch", detail: format!("a grid of {:?}", self.grid) });
        };
        Ok(sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: self.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: int(self.shared)? as u32,
            hStream: stream,
            attrs,
            numAttrs: count,
        })
    }
}

/// The kernels, loaded onto a device.
pub(super) struct Kernels {
    context: Arc<Context>,
    module: sys::CUmodule,
    functions: Vec<sys::CUfunction>,
    /// Whether kernels may be launched before the ones ahead have ended.
    overlap: bool,
    /// Whether the kernel that was launched last writes weights, which products read before they wait.
    wrote_weights: AtomicBool,
}

// SAFETY: handles of the driver may be used from any thread on which the context is current.
unsafe impl Send for Kernels {}

impl Kernels {
    /// Loads an image from `folder` or from `cubins` beside the program: the first that the device takes and that has all
    /// kernels. Where there is none, the sources are compiled. With `overlaps`, kernels that wait for the ones ahead are launched
    /// before those have ended.
    pub(super) fn load(context: &Arc<Context>, folder: Option<&Path>, overlaps: bool) -> Result<Self, DeviceError> {
        let device = context.name();
        for path in image::candidates(&image::folders(folder), context.capability()) {
            let read = match fs::read(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                read => read.map_err(|error| DeviceError::Kernels(error.to_string())),
            };
            match read.and_then(|image| Self::of_image(context, image, overlaps)) {
                Ok(kernels) => {
                    info!(path = %path.display(), device, "kernels");
                    return Ok(kernels);
                }
                Err(error) => warn!(path = %path.display(), device, %error, "kernels that cannot be used; looking for others"),
            }
        }
        info!(device, "no kernels that it takes were found; compiling them");
        Self::of_image(context, compile::image(context.capability())?, overlaps)
    }

    /// The kernels of a cubin or of PTX.
    fn of_image(context: &Arc<Context>, mut image: Vec<u8>, overlaps: bool) -> Result<Self, DeviceError> {
        image.push(0);
        // SAFETY: an image is a cubin or PTX that ends with a zero; the driver checks what it reads.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(driver("loading kernels"))?;
        let mut kernels = Self {
            context: context.clone(),
            module,
            functions: Vec::new(),
            overlap: overlaps,
            wrote_weights: AtomicBool::new(false),
        };
        for (_, name) in Kernel::ALL {
            let text = CString::new(*name).unwrap_or_default();
            // SAFETY: the module was just loaded.
            let function = unsafe { result::module::get_function(module, text) }.map_err(driver(name))?;
            let version = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
            // SAFETY: the function was just found.
            let version = unsafe { result::function::get_function_attribute(function, version) }.map_err(driver(name))?;
            kernels.overlap &= version >= WAITING_PTX;
            kernels.functions.push(function);
        }
        Ok(kernels)
    }

    /// Lets blocks of a kernel have more shared memory than all may.
    pub(super) fn allow_shared(&self, kernel: Kernel, bytes: usize) -> Result<(), DeviceError> {
        if bytes <= SHARED_UNASKED as usize {
            return Ok(());
        }
        let most = self.context.shared_of_block();
        if bytes > most {
            let name = Kernel::ALL[kernel as usize].1;
            let detail = format!("{name} wants {bytes} bytes of shared memory a block, {} has {most}", self.context.name());
            return Err(DeviceError::Kernels(detail));
        }
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = int(bytes)?;
        // SAFETY: the function belongs to the module that is loaded.
        unsafe { result::function::set_function_attribute(self.functions[kernel as usize], attribute, bytes) }
            .map_err(driver("asking for shared memory"))
    }

    /// Gives a kernel to the stream. Nothing is launched where the grid is empty. Where kernels overlap it may begin while the
    /// one ahead ends, unless that writes weights, and waits for it by itself.
    pub(super) fn launch(&self, kernel: Kernel, geometry: Geometry, args: &[Arg]) -> Result<(), DeviceError> {
        if geometry.grid.contains(&0) {
            return Ok(());
        }
        let mut pointers: Vec<*mut c_void> = args.iter().map(|arg| std::ptr::from_ref(&arg.0).cast_mut().cast()).collect();
        let writes_weights = matches!(kernel, Kernel::FillDummy | Kernel::QuantiseRows);
        let behind_weights = self.wrote_weights.swap(writes_weights, Ordering::Relaxed);
        let mut overlapping = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let attributes = u32::from(self.overlap && !behind_weights);
        let config = geometry.on(self.context.stream(), &raw mut overlapping, attributes)?;
        // SAFETY: `args` are what the kernel takes, each in its lowest bytes, and addresses are of live memory; all memory
        // outlives its use, since it is given back to the one stream's order alone. Kernels that overlap wait for those ahead
        // before they touch what those write, which `cuda/build.sh` proves of their code.
        unsafe { sys::cuLaunchKernelEx(&config, self.functions[kernel as usize], pointers.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(driver(Kernel::ALL[kernel as usize].1))
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: loaded once, unloaded once.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// A number as the kernels count.
pub(super) fn int(number: usize) -> Result<i32, DeviceError> {
    i32::try_from(number).map_err(|_| DeviceError::Shape { operation: "launch", detail: format!("{number} is beyond 32 bits") })
}
