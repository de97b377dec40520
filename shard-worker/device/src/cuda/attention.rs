//! Attention over the paged cache and inside images. A row's result has the same bits whichever kernel computes it.

use super::{
    CudaCache, CudaDevice, CudaRows, CudaTensor,
    kernel::{Geometry, Kernel, Kernels, int},
};
use crate::{CacheDtype, DeviceError, Dtype, Heads};

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

/// Kernels for heads of one width; those with an 8 over keys and values in fp8.
struct ByWidth {
    width: usize,
    split: Kernel,
    split8: Kernel,
    combine: Kernel,
    chunk: Kernel,
    chunk8: Kernel,
    image: Kernel,
}

/// A kernel and the shared memory that its blocks have, in bytes.
type WithShared = (Kernel, usize);

const WIDTHS: [ByWidth; 3] = [
    ByWidth {
        width: 32,
        split: Kernel::AttendSplit32,
        split8: Kernel::AttendSplit8Of32,
        combine: Kernel::AttendCombine32,
        chunk: Kernel::AttendChunk32,
        chunk8: Kernel::AttendChunk8Of32,
        image: Kernel::AttendImage32,
    },
    ByWidth {
        width: 64,
        split: Kernel::AttendSplit64,
        split8: Kernel::AttendSplit8Of64,
        combine: Kernel::AttendCombine64,
        chunk: Kernel::AttendChunk64,
        chunk8: Kernel::AttendChunk8Of64,
        image: Kernel::AttendImage64,
    },
    ByWidth {
        width: 128,
        split: Kernel::AttendSplit128,
        split8: Kernel::AttendSplit8Of128,
        combine: Kernel::AttendCombine128,
        chunk: Kernel::AttendChunk128,
        chunk8: Kernel::AttendChunk8Of128,
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

    /// Of single rows: they hold keys, values and queries of a split, scales of two, and what the warps exchange.
    fn split_over(&self, cache: CacheDtype) -> WithShared {
        match cache {
            CacheDtype::Plain(_) => (self.split, 544 * self.width + 5376),
            CacheDtype::Fp8 => (self.split8, 288 * self.width + 7424),
        }
    }

    /// Of chunks: keys and values of a split, its scales and the block's queries.
    fn chunk_over(&self, cache: CacheDtype) -> WithShared {
        match cache {
            CacheDtype::Plain(_) => (self.chunk, 768 * self.width),
            CacheDtype::Fp8 => (self.chunk8, 768 * self.width + 1024),
        }
    }

    /// Of images, whose blocks have fewer queries.
    fn over_images(&self) -> WithShared {
        (self.image, 640 * self.width)
    }
}

/// Lets the kernels have what they need.
pub(super) fn prepare(kernels: &Kernels) -> Result<(), DeviceError> {
    for width in &WIDTHS {
        let over = |cache| [width.split_over(cache), width.chunk_over(cache)];
        let caches = [Dtype::Bf16.into(), CacheDtype::Fp8].into_iter().flat_map(over);
        for (kernel, shared) in caches.chain([width.over_images()]) {
            kernels.allow_shared(kernel, shared)?;
        }
    }
    Ok(())
}

fn scale(heads: Heads) -> f32 {
    1.0 / (heads.head_dim as f32).sqrt()
}

impl CudaDevice {
    /// Queries over a layer's keys and values: single rows by splits, chunks by tiles.
    pub(super) fn attend_cache(
        &self,
        qkv: &CudaTensor,
        heads: Heads,
        (cache, layer): (&CudaCache, usize),
        rows: &CudaRows,
        out: &mut CudaTensor,
    ) -> Result<(), DeviceError> {
        let kernels = ByWidth::of(heads)?;
        let (count, kv_heads) = (int(heads.heads)?, int(heads.kv_heads)?);
        let (keys, values) = cache.layer(layer);
        if rows.singles > 0 {
            let numbers = heads.heads * rows.splits * (PARTIAL_HEAD + heads.head_dim);
            let partials = self.scratch(numbers * size_of::<f32>())?;
            let runs = (RESIDENT * self.context.processors()).div_ceil(heads.kv_heads).min(rows.splits);
            let (split, shared) = kernels.split_over(cache.shape.dtype);
            let geometry = Geometry { grid: [heads.kv_heads, runs, 1], block: 128, shared };
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
            self.kernels.launch(split, geometry, &args)?;
            let geometry = Geometry { grid: [heads.heads, rows.singles, 1], block: kernels.width as u32, shared: 0 };
            let args = [partials.address().into(), rows.singles_address().into(), out.address().into(), count.into()];
            self.kernels.launch(kernels.combine, geometry, &args)?;
        }
        let blocks = (rows.largest_tile * heads.heads / heads.kv_heads).div_ceil(CHUNK_QUERIES);
        let (chunk, shared) = kernels.chunk_over(cache.shape.dtype);
        let geometry = Geometry { grid: [heads.kv_heads * blocks, rows.tiles, 1], block: 256, shared };
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
        self.kernels.launch(chunk, geometry, &args)
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
        let (image, shared) = kernels.over_images();
        let geometry = Geometry { grid: [heads.heads, rows.tiles, 1], block: 128, shared };
        let args = [
            qkv.address().into(),
            rows.tiles_address().into(),
            out.address().into(),
            int(heads.heads)?.into(),
            scale(heads).into(),
        ];
        self.kernels.launch(image, geometry, &args)
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
        assert!(split.contains("attend_split8: 288 HD + 7424\n//           bytes (attend_split8_shared)"));
        assert!(chunk.contains("shared  768 HD bytes, dynamic (attend_chunk_shared)"));
        assert!(chunk.contains("attend_chunk8: 768 HD + 1024 bytes (attend_chunk8_shared)"));
        assert!(chunk.contains("shared  640 HD bytes, dynamic (attend_image_shared)"));
    }
}
