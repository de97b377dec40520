//! NVIDIA GPUs, through the driver, which is opened at run time.
//!
//! Weights, cache and activations are bf16; weights that may be quantised, and keys and values, are e4m3 where that is asked
//! for. The residual stream, logits and all sums are f32. One stream orders all work, so calls return before the device is done;
//! reading a tensor waits. A device is used by one thread at a time.

mod attention;
mod choose;
mod chosen;
mod compile;
mod context;
mod failure;
mod gemm;
mod image;
mod kernel;
mod layout;
mod matrix;
mod ops;
mod peers;
mod pinned;
mod recording;
mod rows;
mod schedule;
mod shapes;
mod staging;
mod tensor;
mod uploads;
mod weights;
mod window;
mod workspace;

use std::{path::PathBuf, sync::Arc};

pub use chosen::CudaChosen;
pub use context::CudaGpu;
pub use matrix::CudaMatrix;
pub use recording::Recording;
pub use rows::CudaRows;
pub use tensor::CudaTensor;
pub use weights::{CudaCache, CudaRotary, CudaTable, CudaVector};

use chosen::Landings;
use context::Context;
use kernel::Kernels;
use peers::Peers;
use recording::Recordings;
use staging::Staging;
use tensor::Numbers;
use uploads::Uploads;
use workspace::{Region, Workspace};

use crate::{DeviceError, Dtype, WeightFormat};

/// Of the device's memory, what passes compute with unless somebody says otherwise: one part of so many.
const WORKSPACE_PART: usize = 24;
/// Of that, what recorded passes compute with.
const RECORDED_PART: usize = 8;

/// How a GPU is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaConfig {
    /// Which GPU of those that the process sees.
    pub ordinal: usize,
    /// A folder with kernels made for it; beside the program, in `cubins`, is looked next.
    pub kernels: Option<PathBuf>,
    /// Bytes for what passes compute with; a share of the device's memory when `None`.
    pub workspace: Option<usize>,
    /// Whether passes of next tokens are recorded and replayed.
    pub records: bool,
    /// Whether a kernel may begin while the one ahead of it ends, from compute capability 9.0 on.
    pub overlaps: bool,
    /// Whether GPUs of a group sum through each other's memory where they reach it.
    pub peers: bool,
}

/// One GPU.
pub struct CudaDevice {
    // Fields are dropped in this order: the context goes last. Kernels that wait for peers are stopped first.
    peers: Peers,
    kernels: Kernels,
    staging: Staging,
    landings: Arc<Landings>,
    uploads: Uploads,
    recordings: Recordings,
    records: bool,
    format: WeightFormat,
    workspace: Arc<Workspace>,
    /// What recorded passes compute with, apart from all else.
    recorded: Arc<Workspace>,
    context: Arc<Context>,
}

impl CudaDevice {
    /// Opens a GPU, loads the kernels and reserves the workspace. Weights are kept as `format` says.
    ///
    /// # Errors
    /// `Dtype` for any but bf16, `Library` where the driver is missing, `NoDevice`, `Kernels` where there is no code for the GPU, `OutOfMemory`, and
    /// `Driver` with what the driver said.
    pub fn new(config: &CudaConfig, format: WeightFormat) -> Result<Self, DeviceError> {
        if format.dtype != Dtype::Bf16 {
            let asked = format!("{:?}", format.dtype).to_lowercase();
            return Err(DeviceError::Dtype { device: "cuda", known: "bf16", asked });
        }
        let context = Context::open(config.ordinal)?;
        let kernels = Kernels::load(&context, config.kernels.as_deref(), config.overlaps)?;
        gemm::prepare(&kernels, gemm::has_wide(&context))?;
        attention::prepare(&kernels)?;
        let (_, all) = context.memory()?;
        let bytes = config.workspace.unwrap_or(all / WORKSPACE_PART);
        let workspace =
            |bytes: usize, what: &str| Ok::<_, DeviceError>(Workspace::new(context.allocate(bytes, what)?, context.name()));
        Ok(Self {
            peers: Peers::new(config.peers, &context),
            kernels,
            staging: Staging::new(&context)?,
            landings: Landings::new(&context)?,
            uploads: Uploads::new(&context)?,
            recordings: Recordings::default(),
            records: config.records,
            format,
            workspace: workspace(bytes - bytes / RECORDED_PART, "the workspace")?,
            recorded: workspace(bytes / RECORDED_PART, "the workspace of recorded passes")?,
            context,
        })
    }

    /// The GPU's name, as its driver tells it.
    pub fn name(&self) -> &str {
        self.context.name()
    }

    /// Bytes free on the device, and bytes in all.
    pub fn memory(&self) -> Result<(usize, usize), DeviceError> {
        self.context.memory()
    }

    /// Memory that nobody has written to since somebody else had it.
    fn scratch(&self, bytes: usize) -> Result<Region, DeviceError> {
        if self.recordings.is_active() { self.recorded.take(bytes) } else { self.workspace.take(bytes) }
    }

    fn matrix(&self, rows: usize, cols: usize, numbers: Numbers) -> Result<CudaTensor, DeviceError> {
        let region = self.scratch(tensor::bytes(rows, cols, numbers)?)?;
        Ok(CudaTensor { rows, cols, numbers, region })
    }
}
