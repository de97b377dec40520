//! Matrix products.

use super::{
    CudaDevice, CudaMatrix, CudaTensor,
    context::Context,
    kernel::{Geometry, Kernel, Kernels, int},
    ops::{agree, shaped},
    schedule::{self, Schedule},
    tensor::Numbers,
};
use crate::DeviceError;

/// Threads of a block of either kernel.
const THREADS: u32 = 256;
/// Shared memory of a block of each kernel, in bytes, as their headers say.
const SMALL_SHARED: usize = 98_304;
const TILE_SHARED: usize = 98_304;
const WIDE_SHARED: usize = 229_376;

/// Lets the kernels have what they need.
pub(super) fn prepare(kernels: &Kernels, wide: bool) -> Result<(), DeviceError> {
    for kernel in [Kernel::GemmSmallWorking, Kernel::GemmSmallFull] {
        kernels.allow_shared(kernel, SMALL_SHARED)?;
    }
    for kernel in [Kernel::GemmTileWorking, Kernel::GemmTileFull, Kernel::GemmPart] {
        kernels.allow_shared(kernel, TILE_SHARED)?;
    }
    for kernel in [Kernel::GemmWideWorking, Kernel::GemmWideFull].into_iter().filter(|_| wide) {
        kernels.allow_shared(kernel, WIDE_SHARED)?;
    }
    Ok(())
}

/// Whether blocks of a device may have what wide tiles take.
pub(super) fn has_wide(context: &Context) -> bool {
    context.shared_of_block() >= WIDE_SHARED
}

impl CudaDevice {
    /// `out = x * weight^T`. A row has the same bits whatever the batch around it.
    pub(super) fn multiply(&self, x: &CudaTensor, weight: &CudaMatrix, out: &mut CudaTensor) -> Result<(), DeviceError> {
        agree("matmul", "inner dimension", x.cols, weight.inner)?;
        agree("matmul", "inner dimension beyond a multiple of 8", weight.inner % 8, 0)?;
        shaped("matmul", out, x.rows, weight.out)?;
        if x.numbers == Numbers::Full {
            let mut narrow = self.matrix(x.rows, x.cols, Numbers::Working)?;
            self.narrow(x, &mut narrow)?;
            return self.multiply(&narrow, weight, out);
        }
        let (rows, features) = (x.rows, weight.out);
        let (m, n, k) = (int(rows)?, int(features)?, int(weight.inner)?);
        let tiles = |of_rows, shared| Geometry { grid: [schedule::tiles(rows, of_rows, features), 1, 1], block: THREADS, shared };
        let schedule = Schedule::of([rows, features, weight.inner], self.context.processors(), has_wide(&self.context));
        let (working, full, geometry) = match schedule {
            Schedule::Few => (Kernel::GemmSmallWorking, Kernel::GemmSmallFull, self.few(rows, features)),
            Schedule::Tiles => (Kernel::GemmTileWorking, Kernel::GemmTileFull, tiles(schedule::TILE_ROWS, TILE_SHARED)),
            Schedule::Wide => (Kernel::GemmWideWorking, Kernel::GemmWideFull, tiles(schedule::WIDE_ROWS, WIDE_SHARED)),
            Schedule::Parts(parts) => {
                let mut geometry = tiles(schedule::TILE_ROWS, TILE_SHARED);
                geometry.grid[2] = parts;
                let partials = self.scratch(schedule::partial_numbers(rows, features) * size_of::<f32>())?;
                let (from, to) = (weight.memory.address(), partials.address());
                let args = [x.address().into(), from.into(), to.into(), m.into(), n.into(), k.into()];
                self.kernels.launch(Kernel::GemmPart, geometry, &args)?;
                return self.join(partials.address(), out);
            }
        };
        let kernel = if out.numbers == Numbers::Working { working } else { full };
        let args = [x.address().into(), weight.memory.address().into(), out.address().into(), m.into(), n.into(), k.into()];
        self.kernels.launch(kernel, geometry, &args)
    }

    /// `out` is the sums of the segments, added in order.
    fn join(&self, partials: u64, out: &mut CudaTensor) -> Result<(), DeviceError> {
        let kernel = if out.numbers == Numbers::Working { Kernel::GemmJoinWorking } else { Kernel::GemmJoinFull };
        let args = [partials.into(), out.address().into(), (out.len() as i64).into()];
        self.kernels.launch(kernel, Geometry::numbers(out.len(), 1024), &args)
    }

    /// A block a group of features, no more blocks than run at once.
    fn few(&self, rows: usize, features: usize) -> Geometry {
        let group = match rows {
            0..=8 => 16,
            9..=16 => 32,
            _ => 64,
        };
        let blocks = if rows == 0 { 0 } else { features.div_ceil(group).min(self.context.processors()) };
        Geometry { grid: [blocks, 1, 1], block: THREADS, shared: SMALL_SHARED }
    }

    /// `narrow` gets the numbers of `x`, rounded.
    fn narrow(&self, x: &CudaTensor, narrow: &mut CudaTensor) -> Result<(), DeviceError> {
        let args = [x.address().into(), narrow.address().into(), (x.len() as i64).into()];
        self.kernels.launch(Kernel::Narrow, Geometry::numbers(x.len(), 1024), &args)
    }
}
