//! What lies on the device beside the products' weights: vectors, rows to look up, angles, the cache.

use tessera_types::BLOCK_TOKENS;

use super::{CudaDevice, context::Memory};
use crate::{CacheDtype, CacheShape, DeviceError, Dtype, MatrixSource};

/// A vector of weights, f32.
pub struct CudaVector {
    pub(super) len: usize,
    pub(super) memory: Memory,
}

/// Rows to look up, `[tokens, dim]`.
pub struct CudaTable {
    pub(super) tokens: usize,
    pub(super) dim: usize,
    pub(super) memory: Memory,
}

/// Cosines and sines, `[positions, pairs, 2]` in f32.
pub struct CudaRotary {
    pub(super) pairs: usize,
    pub(super) positions: usize,
    pub(super) memory: Memory,
}

/// Keys and values of all layers: for each layer all keys, then all values, as `cuda/kernels/cache.cuh` says.
pub struct CudaCache {
    pub(super) shape: CacheShape,
    memory: Memory,
}

impl CudaCache {
    /// Where a layer's keys and its values begin.
    pub(super) fn layer(&self, layer: usize) -> (u64, u64) {
        let CacheShape { kv_heads, head_dim, blocks, .. } = self.shape;
        let part = (blocks * kv_heads * BLOCK_TOKENS * self.shape.dtype.bytes(head_dim)) as u64;
        let keys = self.memory.address() + 2 * layer as u64 * part;
        (keys, keys + part)
    }
}

impl CudaDevice {
    pub(super) fn new_vector(&self, source: &MatrixSource<'_>) -> Result<CudaVector, DeviceError> {
        source.check("load_vector")?;
        let mut values = vec![0.0_f32; source.rows.len() * source.cols()];
        for (row, values) in values.chunks_exact_mut(source.cols().max(1)).enumerate() {
            source.read(row, 0..source.cols(), values);
        }
        Ok(CudaVector { len: values.len(), memory: self.kept(&values, "a vector")? })
    }

    pub(super) fn new_table(&mut self, source: &MatrixSource<'_>) -> Result<CudaTable, DeviceError> {
        let memory = self.bf16(std::slice::from_ref(source), "the embedding")?;
        Ok(CudaTable { tokens: source.rows.len(), dim: source.cols(), memory })
    }

    pub(super) fn new_cache(&self, shape: CacheShape) -> Result<CudaCache, DeviceError> {
        if shape.dtype == CacheDtype::Plain(Dtype::F32) || !matches!(shape.head_dim, 32 | 64 | 128) {
            let detail =
                format!("heads of {} in {:?}, where 32, 64 or 128 in bf16 or fp8 are known", shape.head_dim, shape.dtype);
            return Err(DeviceError::Shape { operation: "cache", detail });
        }
        Ok(CudaCache { shape, memory: self.context.allocate(shape.bytes(), "the key and value cache")? })
    }

    /// Angles of `positions`, the pairs' given by `angles`.
    pub(super) fn new_rotary(
        &self,
        pairs: usize,
        positions: usize,
        angles: impl Fn(usize, usize) -> f64,
    ) -> Result<CudaRotary, DeviceError> {
        let turns = (0..positions).flat_map(|position| (0..pairs).map(move |pair| (position, pair)));
        let values: Vec<f32> = turns
            .flat_map(|(position, pair)| {
                let angle = angles(position, pair);
                [angle.cos() as f32, angle.sin() as f32]
            })
            .collect();
        Ok(CudaRotary { pairs, positions, memory: self.kept(&values, "rotary angles")? })
    }

    /// Values that stay on the device.
    fn kept(&self, values: &[f32], what: &str) -> Result<Memory, DeviceError> {
        let memory = self.context.allocate(size_of_val(values), what)?;
        self.context.upload(memory.address(), values)?;
        Ok(memory)
    }
}
