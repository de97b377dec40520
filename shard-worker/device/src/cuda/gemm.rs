//! Matrix products.

use super::{
    CudaDevice, CudaMatrix, CudaTensor,
    context::Context,
    kernel::{Arg, Geometry, Kernel, Kernels, int},
    matrix::Weights,
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
        let wide = has_wide(&self.context);
        let schedule = match weight.weights {
            Weights::Bf16(_) => Schedule::of(shape, self.context.processors(), wide),
            Weights::E4m3 { .. } => Schedule::of_quantised(shape),
        };
        if let Schedule::Parts(parts) = schedule {
            return self.multiply_in_parts(x, weight, out, parts);
        }
        let (working, full, geometry) = self.product(schedule, x.rows, weight);
        let kernel = if out.numbers == Numbers::Working { working } else { full };
        self.kernels.launch(kernel, geometry, &args(x, weight, out.address())?)
    }

    /// The kernels of a way, that with bf16 results and that with f32 ones, and how they are launched.
    fn product(&self, schedule: Schedule, rows: usize, weight: &CudaMatrix) -> (Kernel, Kernel, Geometry) {
        use Kernel as K;
        let of = |of_rows, shared| tiled(rows, of_rows, weight.out, shared);
        match (&weight.weights, schedule) {
            (Weights::Bf16(_), Schedule::Few) => (K::GemmSmallWorking, K::GemmSmallFull, self.few(rows, weight.out, 16)),
            (Weights::Bf16(_), Schedule::Wide) => (K::GemmWideWorking, K::GemmWideFull, of(schedule::WIDE_ROWS, WIDE_SHARED)),
            (Weights::Bf16(_), _) => (K::GemmTileWorking, K::GemmTileFull, of(schedule::TILE_ROWS, TILE_SHARED)),
            (Weights::E4m3 { .. }, Schedule::Few) => (K::GemmSmall8Working, K::GemmSmall8Full, self.few(rows, weight.out, 32)),
            (Weights::E4m3 { .. }, _) => (K::GemmTile8Working, K::GemmTile8Full, of(schedule::TILE_ROWS, TILE8_SHARED)),
        }
    }

    /// The segments of the inner dimension go to `parts` blocks a tile; their sums are then added in order.
    fn multiply_in_parts(
        &self,
        x: &CudaTensor,
        weight: &CudaMatrix,
        out: &mut CudaTensor,
        parts: usize,
    ) -> Result<(), DeviceError> {
        let mut geometry = tiled(x.rows, schedule::TILE_ROWS, weight.out, TILE_SHARED);
        geometry.grid[2] = parts;
        let partials = self.scratch(schedule::partial_numbers(x.rows, weight.out) * size_of::<f32>())?;
        self.kernels.launch(Kernel::GemmPart, geometry, &args(x, weight, partials.address())?)?;
        let kernel = if out.numbers == Numbers::Working { Kernel::GemmJoinWorking } else { Kernel::GemmJoinFull };
        let join = [partials.address().into(), out.address().into(), (out.len() as i64).into()];
        self.kernels.launch(kernel, Geometry::numbers(out.len(), 1024), &join)
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

/// A block a tile of `of_rows` rows.
fn tiled(rows: usize, of_rows: usize, features: usize, shared: usize) -> Geometry {
    Geometry { grid: [schedule::tiles(rows, of_rows, features), 1, 1], block: THREADS, shared }
}

/// What the kernels of products take.
fn args(x: &CudaTensor, weight: &CudaMatrix, to: u64) -> Result<Vec<Arg>, DeviceError> {
    let from = std::iter::once(x.address()).chain(weight.weights.addresses()).map(Arg::from);
    let sizes = [int(x.rows)?, int(weight.out)?, int(weight.inner)?].map(Arg::from);
    Ok(from.chain([to.into()]).chain(sizes).collect())
}
