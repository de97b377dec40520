//! What operations must know of a pass beside its numbers: heads, rows, and the cache they attend to.

use std::ops::Range;

use tessera_types::{BLOCK_TOKENS, BlockId, TokenId};

use crate::CacheDtype;

/// The shape of a rank's paged cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Decoder layers.
    pub layers: usize,
    /// Key and value heads of this rank.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Blocks of [`tessera_types::BLOCK_TOKENS`] tokens.
    pub blocks: usize,
    /// What keys and values are kept in.
    pub dtype: CacheDtype,
}

impl CacheShape {
    /// Bytes a device takes for it, scales included: devices keep heads in whole vectors, so their width counts up to a multiple
    /// of [`CacheShape::VECTOR`].
    pub fn bytes(self) -> usize {
        let width = self.head_dim.next_multiple_of(Self::VECTOR);
        2 * self.layers * self.blocks * self.kv_heads * BLOCK_TOKENS * self.dtype.bytes(width)
    }

    /// Numbers in a vector.
    pub const VECTOR: usize = 16;
}

/// Heads in a fused row `[queries | keys | values]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads of this rank.
    pub heads: usize,
    /// Key and value heads of this rank; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Heads {
    /// Columns of a fused row.
    pub fn fused(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// A chunk of one sequence inside a batch.
#[derive(Clone, Debug)]
pub struct ChunkSpan<'a> {
    /// Its rows of the batch's matrices.
    pub rows: Range<usize>,
    /// Position of its first token in the sequence.
    pub start: usize,
    /// The sequence's blocks from position 0, enough for `start + rows.len()` tokens.
    pub blocks: &'a [BlockId],
}

/// The rows of a pass through the layers: what operations must know of each beside its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The token of each row; `None` where an image feature goes. Empty where no token is looked up.
    pub tokens: &'a [Option<TokenId>],
    /// What queries and keys of each row are turned by.
    pub positions: &'a [u32],
    /// Which rows see which keys.
    pub spans: Spans<'a>,
}

/// How the rows of a pass attend.
#[derive(Clone, Copy, Debug)]
pub enum Spans<'a> {
    /// Chunks of sequences over the cache.
    Chunks(&'a [ChunkSpan<'a>]),
    /// One image each, over its own rows.
    Images(&'a [Range<usize>]),
}
