//! The paged cache of keys and values.
//!
//! A block's keys of a head lie transposed, `[width][16 tokens]`, so that a lane owns a token's score; its values in
//! vectors of 16 columns, `[width / 16][16 tokens][16]`, so that a lane owns a column of the output. `width` is
//! `head_dim` up to a multiple of 16.
#![allow(unsafe_code)]

use std::ops::Range;

use half::bf16;
use tessera_types::{BLOCK_TOKENS, BlockId};

use super::buffer::Buffer;
use super::element::Element;
use super::parts::Parts;
use super::pool::Pool;
use super::simd::LANES;
use crate::{CacheDtype, CacheShape, ChunkSpan, DeviceError, Dtype, Heads};

// A vector of scores is a block's tokens.
const _: () = assert!(BLOCK_TOKENS == LANES && CacheShape::VECTOR == LANES);

/// Keys and values of all layers.
pub struct CpuCache {
    pub(super) shape: CacheShape,
    pub(super) store: Store,
}

/// The numbers of a cache.
pub(super) enum Store {
    F32(Pages<Buffer<f32>>),
    Bf16(Pages<Buffer<bf16>>),
}

impl CpuCache {
    /// See [`crate::Device::cache`].
    pub(super) fn new(shape: CacheShape) -> Result<Self, DeviceError> {
        let layout = Layout::new(shape.blocks, shape.kv_heads, shape.head_dim);
        let numbers = shape.layers * layout.layer();
        let store = match shape.dtype {
            CacheDtype::Plain(Dtype::F32) => Store::F32(Pages { layout, keys: zeroed(numbers)?, values: zeroed(numbers)? }),
            CacheDtype::Plain(Dtype::Bf16) => Store::Bf16(Pages { layout, keys: zeroed(numbers)?, values: zeroed(numbers)? }),
            CacheDtype::Fp8 => return Err(DeviceError::Dtype { device: "cpu", known: "f32 and bf16", asked: "fp8".into() }),
        };
        Ok(Self { shape, store })
    }
}

fn zeroed<E: Element>(numbers: usize) -> Result<Buffer<E>, DeviceError> {
    Buffer::zeroed(numbers, "the key and value cache")
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) blocks: usize,
    pub(super) kv_heads: usize,
    pub(super) width: usize,
}

impl Layout {
    pub(super) fn new(blocks: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { blocks, kv_heads, width: head_dim.next_multiple_of(LANES) }
    }

    /// Numbers of one layer's keys, and of its values.
    pub(super) fn layer(self) -> usize {
        self.blocks * self.kv_heads * self.width * BLOCK_TOKENS
    }

    fn page(self, layer: usize, block: BlockId, head: usize) -> Range<usize> {
        let size = self.width * BLOCK_TOKENS;
        let page = (layer * self.blocks + block.0 as usize) * self.kv_heads + head;
        page * size..(page + 1) * size
    }
}

/// Keys and values, in memory of either kind.
pub(super) struct Pages<M> {
    pub(super) layout: Layout,
    pub(super) keys: M,
    pub(super) values: M,
}

impl<E: Element> Pages<Buffer<E>> {
    /// To read.
    pub(super) fn borrow(&self) -> Pages<&[E]> {
        Pages { layout: self.layout, keys: &self.keys, values: &self.values }
    }

    /// To write.
    pub(super) fn borrow_mut(&mut self) -> Pages<&mut [E]> {
        Pages { layout: self.layout, keys: &mut self.keys, values: &mut self.values }
    }
}

impl<E: Element> Pages<&[E]> {
    /// Keys of a block, `[width]` vectors of tokens.
    #[inline(always)]
    pub(super) fn keys(&self, layer: usize, block: BlockId, head: usize) -> &[[E; LANES]] {
        self.keys[self.layout.page(layer, block, head)].as_chunks().0
    }

    /// Values of a block, `[width / 16]` runs of tokens' vectors.
    #[inline(always)]
    pub(super) fn values(&self, layer: usize, block: BlockId, head: usize) -> &[[[E; LANES]; BLOCK_TOKENS]] {
        let vectors: &[[E; LANES]] = self.values[self.layout.page(layer, block, head)].as_chunks().0;
        vectors.as_chunks().0
    }
}

impl<E: Element> Pages<&mut [E]> {
    /// Writes the keys and values of fused rows `qkv`; the chunks have been checked.
    pub(super) fn store(
        &mut self,
        pool: &Pool,
        qkv: &[f32],
        heads: Heads,
        layer: usize,
        chunks: &[ChunkSpan<'_>],
    ) -> Result<(), DeviceError> {
        let layout = self.layout;
        let (keys, values) = (Parts::new(self.keys), Parts::new(self.values));
        pool.run(2 * qkv.len(), heads.kv_heads, |head| {
            for chunk in chunks {
                for (position, row) in (chunk.start..).zip(chunk.rows.clone()) {
                    let page = layout.page(layer, chunk.blocks[position / BLOCK_TOKENS], head);
                    let row = &qkv[row * heads.fused()..(row + 1) * heads.fused()];
                    let first = (heads.heads + head) * heads.head_dim;
                    let (key, value) = (&row[first..], &row[first + heads.kv_heads * heads.head_dim..]);
                    // SAFETY: a head's pages belong to one task.
                    let (keys, values) = unsafe { (keys.claim(page.clone()), values.claim(page)) };
                    put(position % BLOCK_TOKENS, &key[..heads.head_dim], &value[..heads.head_dim], keys, values);
                }
            }
        })
    }
}

/// Writes one token's key and value of a head into their page.
fn put<E: Element>(token: usize, key: &[f32], value: &[f32], keys: &mut [E], values: &mut [E]) {
    for (vector, x) in keys.chunks_exact_mut(BLOCK_TOKENS).zip(key) {
        vector[token] = E::from_f32(*x);
    }
    for (run, x) in values.chunks_exact_mut(BLOCK_TOKENS * LANES).zip(value.chunks(LANES)) {
        for (to, x) in run[token * LANES..].iter_mut().zip(x) {
            *to = E::from_f32(*x);
        }
    }
}

/// Fails where chunks reach beyond the batch's rows, share rows, or reach beyond their blocks or the cache's.
pub(super) fn check(operation: &'static str, rows: usize, blocks: usize, chunks: &[ChunkSpan<'_>]) -> Result<(), DeviceError> {
    let failed = |detail| Err(DeviceError::Shape { operation, detail });
    let mut next = 0;
    for chunk in chunks {
        if chunk.rows.start < next || chunk.rows.end < chunk.rows.start || chunk.rows.end > rows {
            return failed(format!("rows {:?} after row {next} of {rows}", chunk.rows));
        }
        next = chunk.rows.end;
        let tokens = chunk.start + chunk.rows.len();
        if tokens > chunk.blocks.len() * BLOCK_TOKENS {
            return failed(format!("{tokens} tokens in {} blocks", chunk.blocks.len()));
        }
        if let Some(block) = chunk.blocks.iter().find(|block| block.0 as usize >= blocks) {
            return failed(format!("block {block} of {blocks}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_takes_the_bytes_that_its_shape_says() {
        for (head_dim, dtype) in [(8, Dtype::F32), (16, Dtype::Bf16), (40, Dtype::F32), (72, Dtype::Bf16), (128, Dtype::F32)] {
            let shape = CacheShape { layers: 3, kv_heads: 2, head_dim, blocks: 5, dtype: dtype.into() };
            let taken = match CpuCache::new(shape).unwrap().store {
                Store::F32(pages) => size_of_val(&*pages.keys) + size_of_val(&*pages.values),
                Store::Bf16(pages) => size_of_val(&*pages.keys) + size_of_val(&*pages.values),
            };
            assert_eq!(taken, shape.bytes(), "{head_dim}");
        }
    }
}
