//! Matrix products.

use super::{
    CudaDevice, CudaMatrix, CudaTensor,
    context::Context,
    kernel::{Geometry, Kernel, Kernels, int},
    ops::{agree, shaped},
    tensor::Numbers,
};
use crate::DeviceError;

/// Threads of a block of either kernel.
const THREADS: u32 = 256;
/// Rows up to which a product is bound by reading the weights.
const FEW_ROWS: usize = 64;
/// Shared memory of a block of each kernel, in bytes, as their headers say.
const SMALL_SHARED: usize = 98_304;
const TILE_SHARED: usize = 98_304;
const WIDE_SHARED: usize = 229_376;
/// Features of a tile.
const TILE_FEATURES: usize = 128;
/// Rows from which wide tiles are worth their shared memory, where blocks may have it.
const WIDE_ROWS: usize = 512;

/// Lets the kernels have what they need.
pub(super) fn prepare(kernels: &Kernels, wide: bool) -> Result<(), DeviceError> {
    for kernel in [Kernel::GemmSmallWorking, Kernel::GemmSmallFull] {
        kernels.allow_shared(kernel, SMALL_SHARED)?;
    }
    for kernel in [Kernel::GemmTileWorking, Kernel::GemmTileFull] {
        kernels.allow_shared(kernel, TILE_SHARED)?;
    }
    for kernel in [Kernel::GemmWideWorking, Kernel::GemmWideFull].into_iter().filter(|_| wide) {
        kernels.allow_shared(kernel, WIDE_SHARED)?;
    }
    Ok(())
}

/// Whether blocks of a device may have what wide tiles take.
pub(super) fn has_wide(context: &Context) -> bool {
    context.capability().0 >= 9
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
        let (working, full, geometry) = if rows <= FEW_ROWS {
            (Kernel::GemmSmallWorking, Kernel::GemmSmallFull, self.few(rows, features))
        } else if rows >= WIDE_ROWS && has_wide(&self.context) {
            (Kernel::GemmWideWorking, Kernel::GemmWideFull, tiles(rows.div_ceil(256), features, WIDE_SHARED))
        } else {
            (Kernel::GemmTileWorking, Kernel::GemmTileFull, tiles(rows.div_ceil(128), features, TILE_SHARED))
        };
        let kernel = if out.numbers == Numbers::Working { working } else { full };
        let (m, n, k) = (int(x.rows)?, int(weight.out)?, int(weight.inner)?);
        let args = [x.address().into(), weight.memory.address().into(), out.address().into(), m.into(), n.into(), k.into()];
        self.kernels.launch(kernel, geometry, &args)
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

/// A block a tile.
fn tiles(row_tiles: usize, features: usize, shared: usize) -> Geometry {
    Geometry { grid: [features.div_ceil(TILE_FEATURES) * row_tiles, 1, 1], block: THREADS, shared }
}
