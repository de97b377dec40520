//! The device's operations: shapes are checked here, the work is done next door.

use std::{convert::Infallible, ops::Range};

use tessera_types::TokenId;

use super::attention::{Attention, Mask, attend_images};
use super::cache::{self, Store};
use super::{CpuCache, CpuDevice, CpuMatrix, CpuRotary, CpuTable, CpuTensor, CpuVector, activation, gemm, norm, rotary, source};
use crate::{CacheShape, ChunkSpan, Device, DeviceError, Heads, MatrixSource, Rows, Spans};

/// Fails unless two numbers of a shape agree.
fn agree(operation: &'static str, what: &str, got: usize, wanted: usize) -> Result<(), DeviceError> {
    if got == wanted {
        return Ok(());
    }
    Err(DeviceError::Shape { operation, detail: format!("{what}: {got} where {wanted} is wanted") })
}

/// Fails unless `out` has the shape of `x`.
fn alike(operation: &'static str, x: &CpuTensor, out: &CpuTensor) -> Result<(), DeviceError> {
    agree(operation, "rows", out.rows, x.rows)?;
    agree(operation, "columns", out.cols, x.cols)
}

/// Fails unless `qkv` has fused rows of `heads`.
fn fused(operation: &'static str, qkv: &CpuTensor, heads: Heads) -> Result<(), DeviceError> {
    agree(operation, "columns", qkv.cols, heads.fused())?;
    let whole = heads.kv_heads > 0 && heads.heads.is_multiple_of(heads.kv_heads) && heads.heads > 0 && heads.head_dim > 0;
    agree(operation, "whole groups of heads", usize::from(whole), 1)
}

impl Device for CpuDevice {
    type Tensor = CpuTensor;
    /// Rows stay where they are.
    type Placed<'a> = Rows<'a>;
    type Matrix = CpuMatrix;
    type Vector = CpuVector;
    type Table = CpuTable;
    type Cache = CpuCache;
    type Rotary = CpuRotary;
    type Chosen = Infallible;
    type Recording = Infallible;

    fn tensor(&self, rows: usize, cols: usize) -> Result<CpuTensor, DeviceError> {
        let mut tensor = self.arena.tensor(rows, cols)?;
        self.pool.rows(1, tensor.numbers_mut(), cols, |_, row| row.fill(0.0))?;
        Ok(tensor)
    }

    fn place<'a>(&self, rows: Rows<'a>) -> Result<Rows<'a>, DeviceError> {
        Ok(rows)
    }

    fn shape(&self, tensor: &CpuTensor) -> (usize, usize) {
        (tensor.rows, tensor.cols)
    }

    fn write(&self, tensor: &mut CpuTensor, values: &[f32]) -> Result<(), DeviceError> {
        agree("write", "numbers", values.len(), tensor.rows * tensor.cols)?;
        tensor.numbers_mut().copy_from_slice(values);
        Ok(())
    }

    fn read(&self, tensor: &CpuTensor) -> Result<Vec<f32>, DeviceError> {
        Ok(tensor.numbers().to_vec())
    }

    fn host_mut<'a>(&self, tensor: &'a mut CpuTensor) -> Option<&'a mut [f32]> {
        Some(tensor.numbers_mut())
    }

    fn load_matrix(&mut self, sources: &[MatrixSource<'_>], segments: &[usize]) -> Result<CpuMatrix, DeviceError> {
        CpuMatrix::load(&self.pool, sources, segments, self.config.dtype)
    }

    fn load_vector(&mut self, source: &MatrixSource<'_>) -> Result<CpuVector, DeviceError> {
        source.check("load_vector")?;
        Ok(CpuVector(source::load(&self.pool, source, "a vector")?))
    }

    fn load_table(&mut self, source: &MatrixSource<'_>) -> Result<CpuTable, DeviceError> {
        CpuTable::load(&self.pool, source, self.config.dtype)
    }

    fn cache(&mut self, shape: CacheShape) -> Result<CpuCache, DeviceError> {
        CpuCache::new(shape)
    }

    fn rotary(&mut self, head_dim: usize, theta: f64, positions: usize) -> Result<CpuRotary, DeviceError> {
        agree("rotary", "half pairs", head_dim % 2, 0)?;
        Ok(CpuRotary::line(head_dim, theta, positions))
    }

    fn rotary_2d(&mut self, head_dim: usize, theta: f64, side: usize) -> Result<CpuRotary, DeviceError> {
        agree("rotary_2d", "half pairs", head_dim % 2, 0)?;
        Ok(CpuRotary::grid(head_dim, theta, side))
    }

    fn embed(&self, table: &CpuTable, first: usize, rows: &Rows<'_>, out: &mut CpuTensor) -> Result<(), DeviceError> {
        self.embed(table, first, rows.tokens, out)
    }

    fn copy_rows(&self, from: &CpuTensor, rows: &[usize], out: &mut CpuTensor, to: &[usize]) -> Result<(), DeviceError> {
        agree("copy_rows", "columns", out.cols, from.cols)?;
        agree("copy_rows", "rows to copy to", to.len(), rows.len())?;
        let cols = from.cols;
        for (row, to) in rows.iter().zip(to) {
            agree("copy_rows", "rows beyond the end", usize::from(*row >= from.rows || *to >= out.rows), 0)?;
            out.numbers_mut()[to * cols..(to + 1) * cols].copy_from_slice(&from.numbers()[row * cols..(row + 1) * cols]);
        }
        Ok(())
    }

    fn rms_norm(&self, x: &CpuTensor, scale: &CpuVector, eps: f32, out: &mut CpuTensor) -> Result<(), DeviceError> {
        alike("rms_norm", x, out)?;
        agree("rms_norm", "scale", scale.0.len(), x.cols)?;
        norm::rms_norm(&self.pool, self.isa, x.numbers(), &scale.0, eps, out.numbers_mut())
    }

    fn matmul(&self, x: &CpuTensor, weight: &CpuMatrix, out: &mut CpuTensor) -> Result<(), DeviceError> {
        agree("matmul", "inner dimension", x.cols, weight.inner)?;
        agree("matmul", "rows", out.rows, x.rows)?;
        agree("matmul", "columns", out.cols, weight.out)?;
        let mut scratch = self.arena.tensor(1, gemm::scratch(self.isa, x.rows, x.cols))?;
        gemm::matmul(&self.pool, self.isa, x.numbers(), weight, scratch.numbers_mut(), out.numbers_mut())
    }

    fn add(&self, x: &mut CpuTensor, y: &CpuTensor) -> Result<(), DeviceError> {
        alike("add", y, x)?;
        activation::add(&self.pool, self.isa, x.numbers_mut(), y.numbers(), y.cols)
    }

    fn add_bias(&self, x: &mut CpuTensor, bias: &CpuVector) -> Result<(), DeviceError> {
        agree("add_bias", "bias", bias.0.len(), x.cols)?;
        activation::add_bias(&self.pool, self.isa, x.numbers_mut(), &bias.0)
    }

    fn swiglu(&self, gate_up: &CpuTensor, out: &mut CpuTensor) -> Result<(), DeviceError> {
        agree("swiglu", "rows", out.rows, gate_up.rows)?;
        agree("swiglu", "columns", gate_up.cols, 2 * out.cols)?;
        let cols = out.cols;
        activation::swiglu(&self.pool, self.isa, gate_up.numbers(), out.numbers_mut(), cols)
    }

    fn gelu_bias(&self, x: &mut CpuTensor, bias: Option<&CpuVector>) -> Result<(), DeviceError> {
        let cols = x.cols;
        if let Some(bias) = bias {
            agree("gelu_bias", "bias", bias.0.len(), cols)?;
        }
        activation::gelu(&self.pool, self.isa, x.numbers_mut(), cols, bias.map(|bias| &*bias.0))
    }

    fn rotate(&self, qkv: &mut CpuTensor, heads: Heads, rotary: &CpuRotary, rows: &Rows<'_>) -> Result<(), DeviceError> {
        self.rotate(qkv, heads, rotary, rows.positions)
    }

    fn rotate_and_store(
        &self,
        qkv: &mut CpuTensor,
        heads: Heads,
        rotary: &CpuRotary,
        cache: &mut CpuCache,
        layer: usize,
        rows: &Rows<'_>,
    ) -> Result<(), DeviceError> {
        self.rotate(qkv, heads, rotary, rows.positions)?;
        self.store(qkv, heads, cache, layer, chunks("rotate_and_store", rows)?)
    }

    fn attend(
        &self,
        qkv: &CpuTensor,
        heads: Heads,
        cache: &CpuCache,
        layer: usize,
        rows: &Rows<'_>,
        out: &mut CpuTensor,
    ) -> Result<(), DeviceError> {
        self.attend(qkv, heads, cache, layer, chunks("attend", rows)?, out)
    }

    fn attend_images(&self, qkv: &CpuTensor, heads: Heads, rows: &Rows<'_>, out: &mut CpuTensor) -> Result<(), DeviceError> {
        match rows.spans {
            Spans::Images(images) => self.attend_images(qkv, heads, images, out),
            Spans::Chunks(_) => Err(DeviceError::Shape { operation: "attend_images", detail: "rows of sequences".into() }),
        }
    }
}

/// The chunks of rows that are no image's.
fn chunks<'a>(operation: &'static str, rows: &Rows<'a>) -> Result<&'a [ChunkSpan<'a>], DeviceError> {
    match rows.spans {
        Spans::Chunks(chunks) => Ok(chunks),
        Spans::Images(_) => Err(DeviceError::Shape { operation, detail: "rows of images".into() }),
    }
}

/// Operations on rows, as the trait's call them and tests do.
impl CpuDevice {
    /// [`Device::embed`] of `tokens`.
    pub fn embed(
        &self,
        table: &CpuTable,
        first: usize,
        tokens: &[Option<TokenId>],
        out: &mut CpuTensor,
    ) -> Result<(), DeviceError> {
        agree("embed", "rows", out.rows, tokens.len())?;
        agree("embed", "columns", out.cols, table.dim)?;
        self.pool.rows(1, out.numbers_mut(), table.dim, |row, out| {
            if let Some(token) = tokens[row] {
                table.look_up(first, token, out);
            }
        })
    }

    /// [`Device::rotate`] by `positions`.
    pub fn rotate(&self, qkv: &mut CpuTensor, heads: Heads, rotary: &CpuRotary, positions: &[u32]) -> Result<(), DeviceError> {
        fused("rotate", qkv, heads)?;
        agree("rotate", "positions", positions.len(), qkv.rows)?;
        rotary::rotate(&self.pool, qkv.numbers_mut(), heads, rotary, positions)
    }

    /// Writes keys and values of fused rows into a layer's blocks.
    pub fn store(
        &self,
        qkv: &CpuTensor,
        heads: Heads,
        cache: &mut CpuCache,
        layer: usize,
        chunks: &[ChunkSpan<'_>],
    ) -> Result<(), DeviceError> {
        self.fits("store", qkv, heads, cache, layer, chunks)?;
        match &mut cache.store {
            Store::F32(pages) => pages.borrow_mut().store(&self.pool, qkv.numbers(), heads, layer, chunks),
            Store::Bf16(pages) => pages.borrow_mut().store(&self.pool, qkv.numbers(), heads, layer, chunks),
        }
    }

    /// [`Device::attend`] of `chunks`.
    pub fn attend(
        &self,
        qkv: &CpuTensor,
        heads: Heads,
        cache: &CpuCache,
        layer: usize,
        chunks: &[ChunkSpan<'_>],
        out: &mut CpuTensor,
    ) -> Result<(), DeviceError> {
        self.fits("attend", qkv, heads, cache, layer, chunks)?;
        agree("attend", "rows", out.rows, qkv.rows)?;
        agree("attend", "columns", out.cols, heads.heads * heads.head_dim)?;
        let attention = Attention { isa: self.isa, qkv: qkv.numbers(), heads, layer, mask: Mask::Causal };
        match &cache.store {
            Store::F32(pages) => attention.run(&self.pool, &pages.borrow(), chunks, out.numbers_mut()),
            Store::Bf16(pages) => attention.run(&self.pool, &pages.borrow(), chunks, out.numbers_mut()),
        }
    }

    /// [`Device::attend_images`] inside each range of rows.
    pub fn attend_images(
        &self,
        qkv: &CpuTensor,
        heads: Heads,
        images: &[Range<usize>],
        out: &mut CpuTensor,
    ) -> Result<(), DeviceError> {
        fused("attend_images", qkv, heads)?;
        agree("attend_images", "rows", out.rows, qkv.rows)?;
        agree("attend_images", "columns", out.cols, heads.heads * heads.head_dim)?;
        let attention = Attention { isa: self.isa, qkv: qkv.numbers(), heads, layer: 0, mask: Mask::Full };
        attend_images(&self.pool, &self.arena, &attention, images, out.numbers_mut())
    }

    /// Fails unless rows, cache and chunks go together.
    fn fits(
        &self,
        operation: &'static str,
        qkv: &CpuTensor,
        heads: Heads,
        cache: &CpuCache,
        layer: usize,
        chunks: &[ChunkSpan<'_>],
    ) -> Result<(), DeviceError> {
        fused(operation, qkv, heads)?;
        agree(operation, "key heads", heads.kv_heads, cache.shape.kv_heads)?;
        agree(operation, "head width", heads.head_dim, cache.shape.head_dim)?;
        agree(operation, "layers beyond the last", usize::from(layer >= cache.shape.layers), 0)?;
        cache::check(operation, qkv.rows, cache.shape.blocks, chunks)
    }
}
