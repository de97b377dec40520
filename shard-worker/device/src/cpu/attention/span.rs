//! One span of keys by one tile of queries.
//!
//! Rows are counted, not iterated: only such loops does the compiler unroll so early that the sums stay in registers.

#![allow(clippy::too_many_arguments, reason = "the inner loop's registers, spelled out")]
#![allow(clippy::needless_range_loop)]

use std::array::from_fn;

use tessera_types::{BLOCK_TOKENS, BlockId};

use crate::cpu::cache::Pages;
use crate::cpu::element::Element;
use crate::cpu::math::exp;
use crate::cpu::simd::{LANES, Lanes, Simd};

/// Blocks between two looks at the maximum.
const BLOCKS: usize = 8;
/// Keys of a span.
pub(super) const SPAN: usize = BLOCKS * BLOCK_TOKENS;

/// Queries of the tallest tile, so that a number of each fits a vector.
pub(super) const TALLEST: usize = LANES;

/// What a tile of queries carries from span to span.
pub(super) struct State<'a> {
    /// `[head_dim][height]`
    pub(super) queries: &'a mut [f32],
    /// `[height][width]`: values weighted by `e^(score - maximum)`.
    pub(super) sums: &'a mut [f32],
    /// The weights' sum of each query, lane by lane.
    pub(super) weights: [Lanes; TALLEST],
    /// The highest score of each query.
    maxima: Lanes,
}

impl<'a> State<'a> {
    /// Numbers of memory it takes.
    pub(super) fn numbers(height: usize, head_dim: usize, width: usize) -> usize {
        // Queries of a width, so that what follows stays on a cache line.
        height * (width + head_dim.next_multiple_of(LANES))
    }

    pub(super) fn new(memory: &'a mut [f32], height: usize, head_dim: usize, width: usize) -> Self {
        let (sums, queries) = memory.split_at_mut(height * width);
        sums.fill(0.0);
        let queries = &mut queries[..head_dim * height];
        Self { queries, sums, weights: [[0.0; LANES]; TALLEST], maxima: [f32::NEG_INFINITY; LANES] }
    }
}

/// The keys and values that a group walks.
pub(super) struct Spans<'a, E> {
    pub(super) pages: &'a Pages<&'a [E]>,
    pub(super) blocks: &'a [BlockId],
    pub(super) layer: usize,
    pub(super) head: usize,
}

impl<E: Element> Spans<'_, E> {
    /// Takes in the span from position `first`; query `r` of the tile sees the first `keys[r]` keys of it, and the
    /// last query the most.
    #[inline(always)]
    pub(super) fn walk<S: Simd>(&self, s: S, height: usize, first: usize, keys: &[usize; TALLEST], state: &mut State<'_>) {
        match height {
            12 => self.of_height::<S, 12>(s, first, keys, state),
            8 => self.of_height::<S, 8>(s, first, keys, state),
            6 => self.of_height::<S, 6>(s, first, keys, state),
            4 => self.of_height::<S, 4>(s, first, keys, state),
            2 => self.of_height::<S, 2>(s, first, keys, state),
            _ => self.of_height::<S, 1>(s, first, keys, state),
        }
    }

    #[inline(always)]
    fn of_height<S: Simd, const H: usize>(&self, s: S, first: usize, keys: &[usize; TALLEST], state: &mut State<'_>) {
        let most = keys[H - 1];
        if most == 0 {
            return;
        }
        let blocks = &self.blocks[first / BLOCK_TOKENS..(first + most).div_ceil(BLOCK_TOKENS)];
        let mut scores = [[0.0; SPAN]; H];
        let queries: &[[f32; H]] = state.queries.as_chunks().0;
        let (pairs, single) = blocks.as_chunks::<2>();
        for (i, pair) in pairs.iter().enumerate() {
            self.score(s, queries, *pair, &mut scores, 2 * i);
        }
        if let [block] = single {
            self.score(s, queries, [*block], &mut scores, 2 * pairs.len());
        }
        let scale = soften(s, blocks.len(), keys, &mut scores, state);

        let (pairs, single) = (self.pages.layout.width / LANES / 2, self.pages.layout.width / LANES % 2);
        for pair in 0..pairs {
            self.weigh::<S, H, 2>(s, blocks, most, &scores, &scale, state.sums, 2 * pair);
        }
        if single > 0 {
            self.weigh::<S, H, 1>(s, blocks, most, &scores, &scale, state.sums, 2 * pairs);
        }
    }

    /// Scores of `N` blocks, the first of them the span's `at`th.
    #[inline(always)]
    fn score<S: Simd, const H: usize, const N: usize>(
        &self,
        s: S,
        queries: &[[f32; H]],
        blocks: [BlockId; N],
        scores: &mut [[f32; SPAN]; H],
        at: usize,
    ) {
        let keys: [_; N] = from_fn(|n| &self.pages.keys(self.layer, blocks[n], self.head)[..queries.len()]);
        let mut acc = [[s.splat(0.0); N]; H];
        for d in 0..queries.len() {
            let mut key = [s.splat(0.0); N];
            for n in 0..N {
                key[n] = E::lanes(s, &keys[n][d]);
            }
            for r in 0..H {
                let query = s.splat(queries[d][r]);
                for n in 0..N {
                    acc[r][n] = s.fma(query, key[n], acc[r][n]);
                }
            }
        }
        for r in 0..H {
            let scores = &mut scores[r].as_chunks_mut::<LANES>().0[at..at + N];
            for n in 0..N {
                s.store(acc[r][n], &mut scores[n]);
            }
        }
    }

    /// `sums = sums * scale + weights * values` for `N` vectors of columns from vector `at`.
    #[inline(always)]
    fn weigh<S: Simd, const H: usize, const N: usize>(
        &self,
        s: S,
        blocks: &[BlockId],
        most: usize,
        weights: &[[f32; SPAN]; H],
        scale: &Lanes,
        sums: &mut [f32],
        at: usize,
    ) {
        let width = self.pages.layout.width;
        let mut acc = [[s.splat(0.0); N]; H];
        for r in 0..H {
            let scale = s.splat(scale[r]);
            let sums = &sums[r * width..(r + 1) * width].as_chunks::<LANES>().0[at..at + N];
            for n in 0..N {
                acc[r][n] = s.mul(s.load(&sums[n]), scale);
            }
        }
        for (block, id) in blocks.iter().enumerate() {
            let values: &[_; N] = match self.pages.values(self.layer, *id, self.head)[at..].first_chunk() {
                Some(values) => values,
                None => return,
            };
            for token in 0..BLOCK_TOKENS.min(most - block * BLOCK_TOKENS) {
                let mut value = [s.splat(0.0); N];
                for n in 0..N {
                    value[n] = E::lanes(s, &values[n][token]);
                }
                for r in 0..H {
                    let weight = s.splat(weights[r][block * BLOCK_TOKENS + token]);
                    for n in 0..N {
                        acc[r][n] = s.fma(weight, value[n], acc[r][n]);
                    }
                }
            }
        }
        for r in 0..H {
            let sums = &mut sums[r * width..(r + 1) * width].as_chunks_mut::<LANES>().0[at..at + N];
            for n in 0..N {
                s.store(acc[r][n], &mut sums[n]);
            }
        }
    }
}

/// Turns scores into weights `e^(score - maximum)`, zero beyond a query's last key; gives what the sums so far are
/// to be multiplied by.
#[inline(always)]
fn soften<S: Simd, const H: usize>(
    s: S,
    blocks: usize,
    keys: &[usize; TALLEST],
    scores: &mut [[f32; SPAN]; H],
    state: &mut State<'_>,
) -> Lanes {
    let used = blocks * BLOCK_TOKENS;
    let mut maxima = state.maxima;
    for (r, scores) in scores.iter_mut().enumerate() {
        scores[keys[r]..used].fill(f32::NEG_INFINITY);
        let mut highest = s.splat(f32::NEG_INFINITY);
        for scores in scores[..used].as_chunks::<LANES>().0 {
            highest = s.max(highest, s.load(scores));
        }
        let mut lanes = [0.0; LANES];
        s.store(highest, &mut lanes);
        maxima[r] = lanes.iter().fold(maxima[r], |a, b| if a > *b { a } else { *b });
    }
    let mut scale = [0.0; LANES];
    s.store(exp(s, s.sub(s.load(&state.maxima), s.load(&maxima))), &mut scale);
    for (r, scores) in scores.iter_mut().enumerate() {
        let highest = s.splat(maxima[r]);
        for scores in scores[..used].as_chunks_mut::<LANES>().0 {
            s.store(exp(s, s.sub(s.load(scores), highest)), scores);
        }
        scores[keys[r]..used].fill(0.0);
        let mut weight = s.mul(s.load(&state.weights[r]), s.splat(scale[r]));
        for scores in scores[..used].as_chunks::<LANES>().0 {
            weight = s.add(weight, s.load(scores));
        }
        s.store(weight, &mut state.weights[r]);
    }
    state.maxima = maxima;
    scale
}
