//! What must fit before a kernel is launched: kernels check nothing.

use super::{CudaCache, CudaRotary, CudaRows, CudaTensor, tensor::Numbers};
use crate::{DeviceError, Heads};

/// Fails unless two numbers of a shape agree.
pub(super) fn agree(operation: &'static str, what: &str, got: usize, wanted: usize) -> Result<(), DeviceError> {
    if got == wanted {
        return Ok(());
    }
    Err(DeviceError::Shape { operation, detail: format!("{what}: {got} where {wanted} is wanted") })
}

/// Fails unless a matrix has so many rows and columns.
pub(super) fn shaped(operation: &'static str, x: &CudaTensor, rows: usize, cols: usize) -> Result<(), DeviceError> {
    agree(operation, "rows", x.rows, rows)?;
    agree(operation, "columns", x.cols, cols)
}

/// Fails unless a matrix holds such numbers.
pub(super) fn holds(operation: &'static str, x: &CudaTensor, numbers: Numbers) -> Result<(), DeviceError> {
    if x.numbers == numbers {
        return Ok(());
    }
    Err(DeviceError::Shape { operation, detail: format!("{:?} numbers where {numbers:?} ones are wanted", x.numbers) })
}

/// Fails unless `qkv` has the fused rows of a pass.
pub(super) fn fused(operation: &'static str, qkv: &CudaTensor, heads: Heads, rows: &CudaRows) -> Result<(), DeviceError> {
    holds(operation, qkv, Numbers::Working)?;
    shaped(operation, qkv, rows.rows, heads.fused())?;
    let whole = heads.kv_heads > 0 && heads.heads.is_multiple_of(heads.kv_heads);
    agree(operation, "whole groups of heads", usize::from(whole), 1)
}

/// Fails unless there are angles for heads and positions.
pub(super) fn turns(operation: &'static str, heads: Heads, rotary: &CudaRotary, rows: &CudaRows) -> Result<(), DeviceError> {
    agree(operation, "pairs of a head", 2 * rotary.pairs, heads.head_dim)?;
    agree(operation, "positions beyond those with angles", usize::from(rows.rows > 0 && rows.farthest >= rotary.positions), 0)
}

/// Fails unless the rows' blocks lie in the cache.
pub(super) fn cached(
    operation: &'static str,
    heads: Heads,
    cache: &CudaCache,
    layer: usize,
    rows: &CudaRows,
) -> Result<(), DeviceError> {
    agree(operation, "key heads", heads.kv_heads, cache.shape.kv_heads)?;
    agree(operation, "head width", heads.head_dim, cache.shape.head_dim)?;
    agree(operation, "layers beyond the last", usize::from(layer >= cache.shape.layers), 0)?;
    agree(operation, "rows of sequences", usize::from(rows.images), 0)?;
    agree(operation, "blocks beyond the last", usize::from(rows.rows > 0 && rows.highest_block >= cache.shape.blocks), 0)
}
