//! Matrix products.

use super::{
    CudaDevice, CudaMatrix, CudaTensor,
    kernel::{Geometry, Kernel, Kernels, int},
    ops::{agree, shaped},
    tensor::Numbers,
};
use crate::DeviceError;

/// Threads of a block of either kernel.
const THREADS: u32 = 256;
/// Rows up to which a product is bound by reading the weights.
const FEW_ROWS: usize = 64;
/// Shared memory of a block, in bytes: `GEMM_SMALL_SHARED` and `GEMM_TILE_SHARED` of the kernels.
const SMALL_SHARED: usize = 98_304;
const TILE_SHARED: usize = 98_304;
/// Features and rows of a block's tile.
const TILE: (usize, usize) = (128, 128);

/// Lets the kernels have what they need.
pub(super) fn prepare(kernels: &Kernels) -> Result<(), DeviceError> {
    for (kernel, shared) in [
        (Kernel::GemmSmallWorking, SMALL_SHARED),
        (Kernel::GemmSmallFull, SMALL_SHARED),
        (Kernel::GemmTileWorking, TILE_SHARED),
        (Kernel::GemmTileFull, TILE_SHARED),
    ] {
        kernels.allow_shared(kernel, shared)?;
    }
    Ok(())
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
        let few = x.rows <= FEW_ROWS;
        let kernel = match (few, out.numbers) {
            (true, Numbers::Working) => Kernel::GemmSmallWorking,
            (true, Numbers::Full) => Kernel::GemmSmallFull,
            (false, Numbers::Working) => Kernel::GemmTileWorking,
            (false, Numbers::Full) => Kernel::GemmTileFull,
        };
        let geometry = if few { self.few(x.rows, weight.out) } else { many(x.rows, weight.out) };
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

fn many(rows: usize, features: usize) -> Geometry {
    Geometry { grid: [features.div_ceil(TILE.0), rows.div_ceil(TILE.1), 1], block: THREADS, shared: TILE_SHARED }
}
