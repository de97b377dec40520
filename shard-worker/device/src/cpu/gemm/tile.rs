//! The inner loop: a register tile of a few rows by 32 outputs.
//!
//! Rows are counted, not iterated: only such loops does the compiler unroll so early that the sums stay in registers.
#![allow(clippy::needless_range_loop)]

use crate::cpu::element::{Element, PANEL};
use crate::cpu::simd::{LANES, Simd};

/// Lines of weights to ask memory for in advance. Without it, a loop over one or two rows runs into lines that the
/// hardware's prefetcher has not fetched yet, at little more than half of the bandwidth.
const AHEAD: usize = 128;

/// A line of sums, one for each output of a panel.
pub(super) type Line = [f32; PANEL];

/// Asks for a line well before its turn.
#[inline(always)]
pub(super) fn prefetch<S: Simd, E: Element>(s: S, line: &[E; PANEL]) {
    s.prefetch(line.as_ptr().wrapping_add(AHEAD * PANEL));
}

/// `sums[r] += x[.][r] * weights[.]`, step by step in order, for a tile of `height` rows; from zero unless `carry`.
/// `STREAM` is whether the weights come from memory.
#[inline(always)]
pub(super) fn accumulate<S: Simd, E: Element, const STREAM: bool>(
    s: S,
    height: usize,
    carry: bool,
    x: &[f32],
    weights: &[[E; PANEL]],
    sums: &mut [Line],
) {
    match height {
        12 => of_height::<S, E, STREAM, 12>(s, carry, x, weights, sums),
        8 => of_height::<S, E, STREAM, 8>(s, carry, x, weights, sums),
        6 => of_height::<S, E, STREAM, 6>(s, carry, x, weights, sums),
        4 => of_height::<S, E, STREAM, 4>(s, carry, x, weights, sums),
        2 => of_height::<S, E, STREAM, 2>(s, carry, x, weights, sums),
        _ => of_height::<S, E, STREAM, 1>(s, carry, x, weights, sums),
    }
}

#[inline(always)]
fn of_height<S: Simd, E: Element, const STREAM: bool, const H: usize>(
    s: S,
    carry: bool,
    x: &[f32],
    weights: &[[E; PANEL]],
    sums: &mut [Line],
) {
    let Some(sums) = sums.first_chunk_mut() else { return };
    let mut tile = Tile::<E, STREAM, H> { carry, x: x.as_chunks().0, weights, sums };
    if S::WIDE || H <= 2 {
        tile.both(s);
    } else {
        tile.half::<S, 0>(s);
        tile.half::<S, 1>(s);
    }
}

struct Tile<'a, E, const STREAM: bool, const H: usize> {
    carry: bool,
    x: &'a [[f32; H]],
    weights: &'a [[E; PANEL]],
    sums: &'a mut [Line; H],
}

impl<E: Element, const STREAM: bool, const H: usize> Tile<'_, E, STREAM, H> {
    /// Both vectors of a line at once.
    #[inline(always)]
    fn both<S: Simd>(&mut self, s: S) {
        let mut acc = [[s.splat(0.0); 2]; H];
        if self.carry {
            for r in 0..H {
                let (halves, _) = self.sums[r].as_chunks::<LANES>();
                acc[r] = [s.load(&halves[0]), s.load(&halves[1])];
            }
        }
        for (x, line) in self.x.iter().zip(self.weights) {
            if STREAM {
                prefetch(s, line);
            }
            let [low, high] = E::line(s, line);
            for r in 0..H {
                let x = s.splat(x[r]);
                acc[r] = [s.fma(x, low, acc[r][0]), s.fma(x, high, acc[r][1])];
            }
        }
        for r in 0..H {
            let (halves, _) = self.sums[r].as_chunks_mut::<LANES>();
            s.store(acc[r][0], &mut halves[0]);
            s.store(acc[r][1], &mut halves[1]);
        }
    }

    /// One vector of a line, where the register file is small.
    #[inline(always)]
    fn half<S: Simd, const HALF: usize>(&mut self, s: S) {
        let mut acc = [s.splat(0.0); H];
        if self.carry {
            for r in 0..H {
                acc[r] = s.load(&self.sums[r].as_chunks::<LANES>().0[HALF]);
            }
        }
        for (x, line) in self.x.iter().zip(self.weights) {
            if STREAM && HALF == 0 {
                prefetch(s, line);
            }
            let weights = E::line(s, line)[HALF];
            for r in 0..H {
                acc[r] = s.fma(s.splat(x[r]), weights, acc[r]);
            }
        }
        for r in 0..H {
            s.store(acc[r], &mut self.sums[r].as_chunks_mut::<LANES>().0[HALF]);
        }
    }
}
