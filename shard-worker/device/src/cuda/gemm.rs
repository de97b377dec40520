//! Matrix products.

use super::{
    CudaDevice, CudaMatrix, CudaTensor,
    context::Context,
    kernel::{Arg, Geometry, Kernel, Kernels, int},
    matrix::Weights,
    schedule::{self, Schedule},
    shapes::{agree, shaped},
    tensor::Numbers,
    workspace::Region,
};
use crate::DeviceError;

/// Threads of a block of either kernel.
const THREADS: u32 = 256;
/// Shared memory of a block of each kernel, in bytes, as their headers say.
const SMALL_SHARED: usize = 98_304;
const TILE_SHARED: usize = 98_304;
const WIDE_SHARED: usize = 229_376;
const TILE8_SHARED: usize = 90_112;

/// Lets the kernels have what they need.
pub(super) fn prepare(kernels: &Kernels, wide: bool) -> Result<(), DeviceError> {
    for (kernel, bytes) in [
        (Kernel::GemmSmallWorking, SMALL_SHARED),
        (Kernel::GemmSmallFull, SMALL_SHARED),
        (Kernel::GemmTileWorking, TILE_SHARED),
        (Kernel::GemmTileFull, TILE_SHARED),
        (Kernel::GemmPart, TILE_SHARED),
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
        let shape = [x.rows, weight.out, weight.inner];
        let schedule = match weight.weights {
            Weights::Bf16(_) => Schedule::of(shape, self.context.processors(), has_wide(&self.context)),
            Weights::E4m3 { .. } => Schedule::of_e4m3(shape),
        };
        // A pass's room is known before; what parts take beside it they do without where there is none left.
        if let Schedule::Parts(parts) = schedule
            && let Ok(partials) = self.scratch(schedule::partial_numbers(x.rows, weight.out) * size_of::<f32>())
        {
            return self.multiply_by_parts(x, weight, (parts, &partials), out);
        }
        let (working, full, geometry) = self.product(schedule, x.rows, weight);
        let kernel = if out.numbers == Numbers::Working { working } else { full };
        self.kernels.launch(kernel, geometry, &arguments(x, weight, out.address())?)
    }

    /// The same by segments of the inner dimension, in so many parts, with room for their sums.
    fn multiply_by_parts(
        &self,
        x: &CudaTensor,
        weight: &CudaMatrix,
        (parts, partials): (usize, &Region),
        out: &mut CudaTensor,
    ) -> Result<(), DeviceError> {
        let mut geometry = tiles([x.rows, schedule::TILE_ROWS], weight.out, TILE_SHARED);
        geometry.grid[2] = parts;
        self.kernels.launch(Kernel::GemmPart, geometry, &arguments(x, weight, partials.address())?)?;
        let kernel = if out.numbers == Numbers::Working { Kernel::GemmJoinWorking } else { Kernel::GemmJoinFull };
        let args = [partials.address().into(), out.address().into(), (out.len() as i64).into()];
        self.kernels.launch(kernel, Geometry::numbers(out.len(), 1024), &args)
    }

    /// The kernels for a product of so many rows, that with bf16 results and that with f32 ones, and how they are launched.
    fn product(&self, schedule: Schedule, rows: usize, weight: &CudaMatrix) -> (Kernel, Kernel, Geometry) {
        use Kernel as K;
        let tile = [rows, schedule::TILE_ROWS];
        match (&weight.weights, schedule) {
            (Weights::Bf16(_), Schedule::Few) => (K::GemmSmallWorking, K::GemmSmallFull, self.few(rows, weight.out, 16)),
            (Weights::Bf16(_), Schedule::Wide) => {
                (K::GemmWideWorking, K::GemmWideFull, tiles([rows, schedule::WIDE_ROWS], weight.out, WIDE_SHARED))
            }
            (Weights::Bf16(_), _) => (K::GemmTileWorking, K::GemmTileFull, tiles(tile, weight.out, TILE_SHARED)),
            (Weights::E4m3 { .. }, Schedule::Few) => (K::GemmSmall8Working, K::GemmSmall8Full, self.few(rows, weight.out, 32)),
            (Weights::E4m3 { .. }, _) => (K::GemmTile8Working, K::GemmTile8Full, tiles(tile, weight.out, TILE8_SHARED)),
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

/// A block a tile of so many of the rows.
fn tiles([rows, of_tile]: [usize; 2], features: usize, shared: usize) -> Geometry {
    Geometry { grid: [schedule::tiles(rows, of_tile, features), 1, 1], block: THREADS, shared }
}

/// What all products take; the result goes to `to`.
fn arguments(x: &CudaTensor, weight: &CudaMatrix, to: u64) -> Result<Vec<Arg>, DeviceError> {
    let from = std::iter::once(x.address()).chain(weight.weights.addresses()).map(Arg::from);
    Ok(from.chain([to.into(), int(x.rows)?.into(), int(weight.out)?.into(), int(weight.inner)?.into()]).collect())
}
