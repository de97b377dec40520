//! Matrix products.

use super::{
    CudaDevice, CudaMatrix, CudaTensor,
    context::Context,
    kernel::{Arg, Geometry, Kernel, Kernels, int},
    matrix::Weights,
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
const TILE8_SHARED: usize = 90_112;
/// Features of a tile.
const TILE_FEATURES: usize = 128;
/// Rows from which wide tiles are worth their shared memory, where blocks may have it.
const WIDE_ROWS: usize = 512;

/// Lets the kernels have what they need.
pub(super) fn prepare(kernels: &Kernels, wide: bool) -> Result<(), DeviceError> {
    for (kernel, bytes) in [
        (Kernel::GemmSmallWorking, SMALL_SHARED),
        (Kernel::GemmSmallFull, SMALL_SHARED),
        (Kernel::GemmTileWorking, TILE_SHARED),
        (Kernel::GemmTileFull, TILE_SHARED),
        (Kernel::GemmSmall8Working, SMALL_SHARED),
        (Kernel::GemmSmall8Full, SMALL_SHARED),
        (Kernel::GemmTile8Working, TILE8_SHARED),
        (Kernel::GemmTile8Full, TILE8_SHARED),
    ] {
        kernels.allow_shared(kernel, bytes)?;
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
        let (working, full, geometry) = self.product(x.rows, weight);
        let kernel = if out.numbers == Numbers::Working { working } else { full };
        let (m, n, k) = (int(x.rows)?, int(weight.out)?, int(weight.inner)?);
        let from = std::iter::once(x.address()).chain(weight.weights.addresses()).map(Arg::from);
        let args: Vec<Arg> = from.chain([out.address().into(), m.into(), n.into(), k.into()]).collect();
        self.kernels.launch(kernel, geometry, &args)
    }

    /// The kernels for a product of so many rows, that with bf16 results and that with f32 ones, and how they are launched.
    fn product(&self, rows: usize, weight: &CudaMatrix) -> (Kernel, Kernel, Geometry) {
        use Kernel as K;
        let features = weight.out;
        let (few, wide) = (rows <= FEW_ROWS, rows >= WIDE_ROWS && has_wide(&self.context));
        match weight.weights {
            Weights::Bf16(_) if few => (K::GemmSmallWorking, K::GemmSmallFull, self.few(rows, features, 16)),
            Weights::Bf16(_) if wide => (K::GemmWideWorking, K::GemmWideFull, tiles(rows.div_ceil(256), features, WIDE_SHARED)),
            Weights::Bf16(_) => (K::GemmTileWorking, K::GemmTileFull, tiles(rows.div_ceil(128), features, TILE_SHARED)),
            Weights::E4m3 { .. } if few => (K::GemmSmall8Working, K::GemmSmall8Full, self.few(rows, features, 32)),
            Weights::E4m3 { .. } => (K::GemmTile8Working, K::GemmTile8Full, tiles(rows.div_ceil(128), features, TILE8_SHARED)),
        }
    }

    /// A block a group of features, `least` for the fewest rows, no more blocks than run at once.
    fn few(&self, rows: usize, features: usize, least: usize) -> Geometry {
        let group = match rows {
            0..=8 => least,
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
