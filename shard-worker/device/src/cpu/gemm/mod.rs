//! Products of activations with weights.
//!
//! Every number of the result is one chain of fused multiply-adds over the inner dimension, in order, in one lane of
//! one accumulator (one chain a segment, where a weight has several). Blocking, tiling, threads and instruction sets
//! only choose which chains run side by side, so they never show in the result.

mod block;
mod pack;
mod rows;
mod tile;

use half::bf16;

use super::element::{Element, PANEL};
use super::parts::Parts;
use super::pool::Pool;
use super::simd::Isa;
use crate::{DeviceError, Dtype, MatrixSource};
use block::{Block, Plan};
use pack::Packed;
pub(super) use rows::{Tile, tiles};

/// A weight `[out, inner]`, packed.
pub struct CpuMatrix {
    pub(super) out: usize,
    pub(super) inner: usize,
    segments: Vec<usize>,
    weights: Weights,
}

enum Weights {
    F32(Packed<f32>),
    Bf16(Packed<bf16>),
}

impl CpuMatrix {
    /// See [`crate::Device::load_matrix`].
    pub(super) fn load(pool: &Pool, sources: &[MatrixSource<'_>], segments: &[usize], dtype: Dtype) -> Result<Self, DeviceError> {
        let failed = |detail| Err(DeviceError::Shape { operation: "load_matrix", detail });
        sources.iter().try_for_each(|source| source.check("load_matrix"))?;
        let out = sources.iter().map(|source| source.rows.len()).sum();
        let inner = sources.first().map_or(0, MatrixSource::cols);
        if sources.iter().any(|source| source.cols() != inner) {
            return failed("sources of different widths".to_owned());
        }
        let count = segments.len().saturating_sub(1);
        if !matches!(count, 1 | 2 | 4 | 8) || !segments.is_sorted() || segments[0] != 0 || segments[count] != inner {
            return failed(format!("segments {segments:?} of an inner dimension of {inner}"));
        }
        let weights = match dtype {
            Dtype::F32 => Weights::F32(Packed::new(pool, sources, out, inner)?),
            Dtype::Bf16 => Weights::Bf16(Packed::new(pool, sources, out, inner)?),
        };
        Ok(Self { out, inner, segments: segments.to_vec(), weights })
    }
}

/// `out = x * weight^T` for `x` `[rows, inner]`, `out` `[rows, out]`; `scratch` holds [`scratch`] numbers.
pub(super) fn matmul(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    weight: &CpuMatrix,
    scratch: &mut [f32],
    out: &mut [f32],
) -> Result<(), DeviceError> {
    match &weight.weights {
        Weights::F32(packed) => multiply(pool, isa, x, weight, packed, scratch, out),
        Weights::Bf16(packed) => multiply(pool, isa, x, weight, packed, scratch, out),
    }
}

/// Numbers of scratch memory that [`matmul`] needs for `rows` of `inner`.
pub(super) fn scratch(isa: Isa, rows: usize, inner: usize) -> usize {
    if rows <= 1 { 0 } else { rows::padded(&rows::tiles(rows, isa.heights())) * inner }
}

fn multiply<E: Element>(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    weight: &CpuMatrix,
    packed: &Packed<E>,
    scratch: &mut [f32],
    out: &mut [f32],
) -> Result<(), DeviceError> {
    let (inner, cols) = (weight.inner, weight.out);
    let Some(rows) = out.len().checked_div(cols) else { return Ok(()) };
    let tiles = rows::tiles(rows, isa.heights());
    let x = if rows == 1 { x } else { rows::pack(pool, x, inner, &tiles, scratch)? };
    let plan = Plan::new(rows, packed.panels(), pool.threads());
    let parts = Parts::new(out);
    pool.run(2 * rows * inner * cols / PANEL, plan.tasks(), |task| {
        let panels = plan.panels(task);
        let block = Block { x, packed, segments: &weight.segments, tiles: &tiles, panels, plan: &plan, cols, out: &parts };
        block::run(isa, block);
    })
}
