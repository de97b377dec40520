//! Which slice of every weight a rank holds.

use std::ops::Range;

use crate::{ModelSpec, Rank, VisionParallel, VisionSpec};

/// Row-parallel products sum this many fixed segments of the inner dimension, joined as a binary tree whose upper
/// levels are the all-reduce. 1, 2, 4 and 8 ranks then add the same numbers in the same order.
pub const SEGMENTS: usize = 8;

/// The slice of the model that one rank of a group holds. All ranges count rows or heads of the whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    /// Ranks in the group.
    pub tp: usize,
    /// This rank.
    pub rank: Rank,
    /// Query heads of the decoder.
    pub heads: Range<usize>,
    /// Key and value heads of the decoder; ranks share one where there are more ranks than heads.
    pub kv_heads: Range<usize>,
    /// Columns of the decoder's feed-forward layer.
    pub ffn: Range<usize>,
    /// Rows of the embedding and of the output matrix. The last ranks may hold fewer, even none.
    pub vocab: Range<usize>,
    /// The vision encoder's and the adapter's slice.
    pub vision: Option<VisionShard>,
    /// How images are shared, and so whether the rank holds that slice, the whole encoder, or both.
    pub vision_parallel: VisionParallel,
}

/// The slice of the vision encoder and the adapter that one rank holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionShard {
    /// Attention heads.
    pub heads: Range<usize>,
    /// Columns of the feed-forward layer.
    pub ffn: Range<usize>,
    /// Columns of the adapter's hidden layer.
    pub adapter: Range<usize>,
}

impl VisionShard {
    /// All of an encoder whose features are `dim` wide.
    pub fn whole(vision: &VisionSpec, dim: usize) -> Self {
        Self { heads: 0..vision.heads, ffn: 0..vision.ffn_dim, adapter: 0..dim }
    }
}

/// A degree at which the model cannot be split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The reduction tree has eight leaves.
    #[error("tensor parallel degree must be 1, 2, 4 or 8, got {0}")]
    Degree(usize),
    /// The rank is not in the group.
    #[error("rank {rank} is outside a group of {tp}")]
    Rank {
        /// The rank asked for.
        rank: Rank,
        /// Ranks in the group.
        tp: usize,
    },
    /// A dimension that the degree does not divide.
    #[error("tensor parallel degree {tp} does not divide {what} ({size})")]
    Indivisible {
        /// The degree.
        tp: usize,
        /// The dimension.
        what: &'static str,
        /// Its size.
        size: usize,
    },
}

impl ShardPlan {
    /// The slice of `rank` in a group of `tp` that encodes images by tensor.
    pub fn new(spec: &ModelSpec, tp: usize, rank: Rank) -> Result<Self, ShardError> {
        if !matches!(tp, 1 | 2 | 4 | 8) {
            return Err(ShardError::Degree(tp));
        }
        let r = usize::from(rank.0);
        if r >= tp {
            return Err(ShardError::Rank { rank, tp });
        }
        let even = |what, size: usize| {
            if size.is_multiple_of(tp) {
                Ok(r * size / tp..(r + 1) * size / tp)
            } else {
                Err(ShardError::Indivisible { tp, what, size })
            }
        };
        let d = &spec.decoder;
        let vocab_rows = d.vocab_size.div_ceil(tp);
        let vision = spec.vision.as_ref().map(|v| {
            Ok::<_, ShardError>(VisionShard {
                heads: even("the vision encoder's heads", v.heads)?,
                ffn: even("the vision encoder's feed-forward width", v.ffn_dim)?,
                adapter: even("the adapter's width", d.dim)?,
            })
        });
        Ok(Self {
            tp,
            rank,
            heads: even("the decoder's heads", d.heads)?,
            kv_heads: kv_heads(d.kv_heads, tp, r)?,
            ffn: even("the decoder's feed-forward width", d.ffn_dim)?,
            vocab: (r * vocab_rows).min(d.vocab_size)..((r + 1) * vocab_rows).min(d.vocab_size),
            vision: vision.transpose()?,
            vision_parallel: VisionParallel::Tensor,
        })
    }

    /// The same, where images are shared otherwise. To a rank that has no others it is all one.
    pub fn sharing_images(self, parallel: VisionParallel) -> Self {
        let vision_parallel = if self.tp == 1 { VisionParallel::Tensor } else { parallel };
        Self { vision_parallel, ..self }
    }

    /// Segments of a row-parallel product that this rank sums itself.
    pub fn segments(&self) -> usize {
        SEGMENTS / self.tp
    }

    /// Rows every rank's part of the logits is padded to, so that gathering is even.
    pub fn vocab_rows(&self, spec: &ModelSpec) -> usize {
        spec.decoder.vocab_size.div_ceil(self.tp)
    }
}

fn kv_heads(kv_heads: usize, tp: usize, rank: usize) -> Result<Range<usize>, ShardError> {
    if kv_heads.is_multiple_of(tp) {
        let each = kv_heads / tp;
        return Ok(rank * each..(rank + 1) * each);
    }
    if tp.is_multiple_of(kv_heads) {
        let head = rank * kv_heads / tp;
        return Ok(head..head + 1);
    }
    Err(ShardError::Indivisible { tp, what: "the decoder's key and value heads", size: kv_heads })
}

/// Bounds of the fixed segments inside `[start, end)`, one rank's part of an inner dimension of `whole`, counted
/// from `start`: `segments + 1` offsets from 0 to `end - start`.
///
/// Segment `i` of the whole begins at `i * whole / 8`, which falls on every rank's boundary since `tp` divides
/// both 8 and `whole`.
pub fn segment_bounds(whole: usize, part: &Range<usize>) -> Vec<usize> {
    let bound = |i: usize| i * whole / SEGMENTS - part.start;
    let (first, last) = (SEGMENTS * part.start / whole, SEGMENTS * part.end / whole);
    (first..=last).map(bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixtral_splits_at_every_degree() {
        let spec = ModelSpec::pixtral_12b();
        for tp in [1, 2, 4, 8] {
            let last = ShardPlan::new(&spec, tp, Rank(tp as u16 - 1)).unwrap();
            assert_eq!(last.heads.end, 32);
            assert_eq!(last.vocab.end, 131_072);
        }
    }

    #[test]
    fn key_heads_are_shared_where_there_are_more_ranks() {
        let mut spec = ModelSpec::pixtral_12b();
        spec.decoder.kv_heads = 2;
        let heads: Vec<_> = (0..8).map(|r| ShardPlan::new(&spec, 8, Rank(r)).unwrap().kv_heads.start).collect();
        assert_eq!(heads, [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn a_degree_that_does_not_divide_is_refused_with_the_dimension() {
        let mut spec = ModelSpec::pixtral_12b();
        spec.decoder.heads = 6;
        let error = ShardPlan::new(&spec, 4, Rank(0)).unwrap_err();
        assert_eq!(error.to_string(), "tensor parallel degree 4 does not divide the decoder's heads (6)");
        assert_eq!(ShardPlan::new(&spec, 3, Rank(0)), Err(ShardError::Degree(3)));
    }

    #[test]
    fn segments_of_all_ranks_are_the_segments_of_one() {
        for whole in [128, 704, 88, 14336, 24] {
            let one = segment_bounds(whole, &(0..whole));
            assert_eq!(one.len(), SEGMENTS + 1);
            for tp in [2, 4, 8] {
                if whole % tp != 0 {
                    continue;
                }
                let mut joined = vec![0];
                for r in 0..tp {
                    let part = r * whole / tp..(r + 1) * whole / tp;
                    joined.extend(segment_bounds(whole, &part)[1..].iter().map(|b| b + part.start));
                }
                assert_eq!(joined, one, "{whole} by {tp}");
            }
        }
    }
}
