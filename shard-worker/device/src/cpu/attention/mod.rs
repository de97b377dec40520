//! Attention over blocks of keys and values.
//!
//! A query walks its keys in order, in spans of a fixed number of blocks counted from position 0, with an online
//! softmax from span to span. What lies beyond its last key adds exact zeros. So its result depends neither on the
//! chunk it came in nor on the queries computed beside it.

mod group;
mod span;

use std::ops::Range;
use std::sync::Arc;

use tessera_types::{BLOCK_TOKENS, BlockId};

use super::arena::Arena;
use super::cache::{Layout, Pages, check};
use super::element::Element;
use super::parts::Parts;
use super::pool::Pool;
use super::simd::Isa;
use crate::{ChunkSpan, DeviceError, Heads};
use group::Group;

/// Queries of a task: enough to use a span of keys often while it is in the cache.
const QUERIES: usize = 96;

/// Which keys a query sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mask {
    /// Those up to its own position.
    Causal,
    /// All of its chunk.
    Full,
}

/// The queries of a batch.
pub(super) struct Attention<'a> {
    pub(super) isa: Isa,
    pub(super) qkv: &'a [f32],
    pub(super) heads: Heads,
    pub(super) layer: usize,
    pub(super) mask: Mask,
}

impl Attention<'_> {
    /// Attends over the pages of a layer; the chunks have been checked. `out` is `[rows, heads * head_dim]`.
    pub(super) fn run<E: Element>(
        &self,
        pool: &Pool,
        pages: &Pages<&[E]>,
        chunks: &[ChunkSpan<'_>],
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let rows = QUERIES.div_ceil(heads / kv_heads);
        let mut groups = Vec::new();
        let mut keys = 0;
        for chunk in chunks {
            keys += chunk.rows.len() * (chunk.start + chunk.rows.len());
            for first in (0..chunk.rows.len()).step_by(rows) {
                let rows = first..chunk.rows.len().min(first + rows);
                groups.extend((0..kv_heads).map(|head| Group { chunk, rows: rows.clone(), head }));
            }
        }
        let parts = Parts::new(out);
        pool.run(keys * heads * head_dim / 8, groups.len(), |task| self.attend(pages, &groups[task], &parts))
    }
}

/// See [`crate::Device::attend_images`]: images are chunks of a cache that lives as long as the call.
pub(super) fn attend_images(
    pool: &Pool,
    arena: &Arc<Arena>,
    attention: &Attention<'_>,
    images: &[Range<usize>],
    out: &mut [f32],
) -> Result<(), DeviceError> {
    let heads = attention.heads;
    let most = images.iter().map(|rows| rows.len().div_ceil(BLOCK_TOKENS)).max().unwrap_or(0);
    let layout = Layout::new(most, heads.kv_heads, heads.head_dim);
    let blocks: Vec<_> = (0..most as u32).map(BlockId).collect();
    for rows in images {
        check(
            "attend_images",
            out.len() / (heads.heads * heads.head_dim),
            most,
            &[ChunkSpan { rows: rows.clone(), start: 0, blocks: &blocks }],
        )?;
    }
    let mut memory = arena.tensor(2, layout.layer())?;
    let (keys, values) = memory.numbers_mut().split_at_mut(layout.layer());
    for rows in images {
        let chunk = &[ChunkSpan { rows: rows.clone(), start: 0, blocks: &blocks }];
        check("attend_images", attention.qkv.len() / heads.fused(), most, chunk)?;
        Pages { layout, keys: &mut *keys, values: &mut *values }.store(pool, attention.qkv, heads, 0, chunk)?;
        attention.run(pool, &Pages { layout, keys: &*keys, values: &*values }, chunk, out)?;
    }
    Ok(())
}
