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

/// Threads of a block of any of the kernels.
const THREADS: u32 = 256;
/// Shared memory of a block of each kernel, in bytes, as their headers say.
const SMALL_SHARED: usize = 98_304;
const TILE_SHARED: usize = 98_304;
const WIDE_SHARED: usize = 229_376;
const WIDE8_SHARED: usize = 212_992;

/// The kernels of products by weights of a kind, of two the one with bf16 results and the one with f32 ones.
struct Products {
    few: [Kernel; 2],
    /// Features of a group for the fewest rows.
    least: usize,
    tile: [Kernel; 2],
    wide: [Kernel; 2],
    wide_shared: usize,
    part: Kernel,
}

const BF16: Products = Products {
    few: [Kernel::GemmSmallWorking, Kernel::GemmSmallFull],
    least: 16,
    tile: [Kernel::GemmTileWorking, Kernel::GemmTileFull],
    wide: [Kernel::GemmWideWorking, Kernel::GemmWideFull],
    wide_shared: WIDE_SHARED,
    part: Kernel::GemmPart,
};
const E4M3: Products = Products {
    few: [Kernel::GemmSmall8Working, Kernel::GemmSmall8Full],
    least: 32,
    tile: [Kernel::GemmTile8Working, Kernel::GemmTile8Full],
    wide: [Kernel::GemmWide8Working, Kernel::GemmWide8Full],
    wide_shared: WIDE8_SHARED,
    part: Kernel::GemmPart8,
};
/// What adds the sums of parts.
const JOIN: [Kernel; 2] = [Kernel::GemmJoinWorking, Kernel::GemmJoinFull];

impl Products {
    fn of(weights: &Weights) -> &'static Self {
        match weights {
            Weights::Bf16(_) => &BF16,
            Weights::E4m3 { .. } => &E4M3,
        }
    }
}

/// Lets the kernels have what they need.
pub(super) fn prepare(kernels: &Kernels, wide: bool) -> Result<(), DeviceError> {
    for products in [BF16, E4M3] {
        for kernel in products.few {
            kernels.allow_shared(kernel, SMALL_SHARED)?;
        }
        for kernel in products.tile.into_iter().chain([products.part]) {
            kernels.allow_shared(kernel, TILE_SHARED)?;
        }
        for kernel in products.wide.into_iter().filter(|_| wide) {
            kernels.allow_shared(kernel, products.wide_shared)?;
        }
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
        let schedule = Schedule::of(shape, self.context.processors(), has_wide(&self.context));
        // A pass's room is known before; what parts take beside it they do without where there is none left.
        if let Schedule::Parts(parts) = schedule
            && let Ok(partials) = self.scratch(schedule::partial_numbers(x.rows, weight.out) * size_of::<f32>())
        {
            return self.multiply_by_parts(x, weight, (parts, &partials), out);
        }
        let products = Products::of(&weight.weights);
        let (kernels, geometry) = match schedule {
            Schedule::Few => (products.few, self.few(x.rows, weight.out, products.least)),
            Schedule::Wide => (products.wide, tiles([x.rows, schedule::WIDE_ROWS], weight.out, products.wide_shared)),
            Schedule::Tiles | Schedule::Parts(_) => {
                (products.tile, tiles([x.rows, schedule::TILE_ROWS], weight.out, TILE_SHARED))
            }
        };
        self.kernels.launch(writing(kernels, out), geometry, &arguments(x, weight, out.address())?)
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
        let part = Products::of(&weight.weights).part;
        self.kernels.launch(part, geometry, &arguments(x, weight, partials.address())?)?;
        let scales = weight.weights.scales().unwrap_or(0);
        let (numbers, features) = (int(out.len())?, int(weight.out)?);
        let args = [partials.address().into(), scales.into(), out.address().into(), numbers.into(), features.into()];
        self.kernels.launch(writing(JOIN, out), Geometry::numbers(out.len(), 1024), &args)
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

/// Of two kernels the one that writes numbers of `out`.
fn writing([working, full]: [Kernel; 2], out: &CudaTensor) -> Kernel {
    if out.numbers == Numbers::Working { working } else { full }
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
