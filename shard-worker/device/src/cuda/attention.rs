//! Attention over the paged cache and inside images. A row's result has the same bits whichever kernel computes it.

use super::{
    CudaDevice, CudaRows, CudaTensor,
    kernel::{Geometry, Kernel, Kernels, int},
};
use crate::{DeviceError, Heads};

/// Keys in a split: blocks compute splits of a single row's keys, which are then merged in order.
pub(super) const SPLIT: usize = 128;
/// Rows of a chunk or an image that attend together at most.
pub(super) const TILE: usize = 64;
/// Query heads that may share a key head.
const MAX_GROUP: usize = 16;
/// Queries that a block of a chunk has.
const CHUNK_QUERIES: usize = 128;
/// Blocks of splits that a processor runs at once; with more in all, a block computes several splits.
const RESIDENT: usize = 3;
/// Numbers of a split's result beside the head's own.
const PARTIAL_HEAD: usize = 4;

/// Kernels for heads of one width.
struct ByWidth {
    width: usize,
    split: Kernel,
    combine: Kernel,
    chunk: Kernel,
    image: Kernel,
}

const WIDTHS: [ByWidth; 3] = [
    ByWidth {
        width: 32,
        split: Kernel::AttendSplit32,
        combine: Kernel::AttendCombine32,
        chunk: Kernel::AttendChunk32,
        image: Kernel::AttendImage32,
    },
    ByWidth {
        width: 64,
        split: Kernel::AttendSplit64,
        combine: Kernel::AttendCombine64,
        chunk: Kernel::AttendChunk64,
        image: Kernel::AttendImage64,
    },
    ByWidth {
        width: 128,
        split: Kernel::AttendSplit128,
        combine: Kernel::AttendCombine128,
        chunk: Kernel::AttendChunk128,
        image: Kernel::AttendImage128,
    },
];

impl ByWidth {
    fn of(heads: Heads) -> Result<&'static Self, DeviceError> {
        let group = heads.heads.div_ceil(heads.kv_heads.max(1));
        let found = WIDTHS.iter().find(|kernels| kernels.width == heads.head_dim && group <= MAX_GROUP);
        found.ok_or_else(|| {
            let detail =
                format!("heads of {}, {group} to a key head, where 32, 64 or 128 and up to 16 are known", heads.head_dim);
            DeviceError::Shape { operation: "attend", detail }
        })
    }

    /// Keys, values and queries of a split, and what its warps exchange, in bytes.
    fn split_shared(&self) -> usize {
        544 * self.width + 5376
    }

    /// Keys and values of a split and the block's queries, in bytes.
    fn chunk_shared(&self) -> usize {
        768 * self.width
    }

    /// The same for an image's blocks, which have fewer queries.
    fn image_shared(&self) -> usize {
        640 * self.width
    }
}

/// Lets the kernels have what they need.
pub(super) fn prepare(kernels: &Kernels) -> Result<(), DeviceError> {
    for width in &WIDTHS {
        kernels.allow_shared(width.split, width.split_shared())?;
        kernels.allow_shared(width.chunk, width.chunk_shared())?;
        kernels.allow_shared(width.image, width.image_shared())?;
    }
    Ok(())
}

fn scale(heads: Heads) -> f32 {
    1.0 / (heads.head_dim as f32).sqrt()
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
        let kernels = ByWidth::of(heads)?;
        let (count, kv_heads) = (int(heads.heads)?, int(heads.kv_heads)?);
        if rows.singles > 0 {
            let numbers = heads.heads * rows.splits * (PARTIAL_HEAD + heads.head_dim);
            let partials = self.scratch(numbers * size_of::<f32>())?;
            let runs = (RESIDENT * self.context.processors()).div_ceil(heads.kv_heads).min(rows.splits);
            let geometry = Geometry { grid: [heads.kv_heads, runs, 1], block: 128, shared: kernels.split_shared() };
            let args = [
                qkv.address().into(),
                keys.into(),
                values.into(),
                rows.tables().into(),
                rows.singles_address().into(),
                partials.address().into(),
                count.into(),
                kv_heads.into(),
                int(rows.singles)?.into(),
                scale(heads).into(),
            ];
            self.kernels.launch(kernels.split, geometry, &args)?;
            let geometry = Geometry { grid: [heads.heads, rows.singles, 1], block: kernels.width as u32, shared: 0 };
            let args = [partials.address().into(), rows.singles_address().into(), out.address().into(), count.into()];
            self.kernels.launch(kernels.combine, geometry, &args)?;
        }
        let blocks = (rows.largest_tile * heads.heads / heads.kv_heads).div_ceil(CHUNK_QUERIES);
        let geometry = Geometry { grid: [heads.kv_heads * blocks, rows.tiles, 1], block: 256, shared: kernels.chunk_shared() };
        let args = [
            qkv.address().into(),
            keys.into(),
            values.into(),
            rows.tables().into(),
            rows.tiles_address().into(),
            out.address().into(),
            count.into(),
            kv_heads.into(),
            scale(heads).into(),
        ];
        self.kernels.launch(kernels.chunk, geometry, &args)
    }

    /// Queries over their own images' keys and values.
    pub(super) fn attend_spans(
        &self,
        qkv: &CudaTensor,
        heads: Heads,
        rows: &CudaRows,
        out: &mut CudaTensor,
    ) -> Result<(), DeviceError> {
        let kernels = ByWidth::of(heads)?;
        let geometry = Geometry { grid: [heads.heads, rows.tiles, 1], block: 128, shared: kernels.image_shared() };
        let args = [
            qkv.address().into(),
            rows.tiles_address().into(),
            out.address().into(),
            int(heads.heads)?.into(),
            scale(heads).into(),
        ];
        self.kernels.launch(kernels.image, geometry, &args)
    }
}

#[cfg(test)]
mod tests {
    /// The kernels' headers are where these sizes are decided.
    #[test]
    fn blocks_have_the_shared_memory_that_the_kernels_ask_for() {
        let split = include_str!("../../cuda/kernels/attention_split.cuh");
        let chunk = include_str!("../../cuda/kernels/attention_chunk.cuh");
        assert!(split.contains("shared  544 HD + 5376 bytes, dynamic (attend_split_shared)"));
        assert!(chunk.contains("shared  768 HD bytes, dynamic (attend_chunk_shared)"));
        assert!(chunk.contains("shared  640 HD bytes, dynamic (attend_image_shared)"));
    }
}
