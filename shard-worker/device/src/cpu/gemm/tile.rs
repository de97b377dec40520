//! The inner loop: a register tile of a few rows by 32 outputs.
//!
//! Rows are counted, not iterated: only such loops does the compiler unroll so early that the sums stay in registers.
#![allow(clippy::needless_range_loop)]

use crate::cpu::element::{Element, PANEL};
use crate::cpu::simd::{Kernel, LANES, Simd};

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

/// `sums[r] += x[.][r] * weights[.]`, step by step in order, for a tile of `height` rows. `STREAM` is whether the
/// weights come from memory.
#[inline(always)]
pub(super) fn accumulate<S: Simd, E: Element, const STREAM: bool>(
    s: S,
    height: usize,
    x: &[f32],
    weights: &[[E; PANEL]],
    sums: &mut [Line],
) {
    match height {
        12 => of_height::<S, E, STREAM, 12>(s, x, weights, sums),
        8 => of_height::<S, E, STREAM, 8>(s, x, weights, sums),
        6 => of_height::<S, E, STREAM, 6>(s, x, weights, sums),
        4 => of_height::<S, E, STREAM, 4>(s, x, weights, sums),
        2 => of_height::<S, E, STREAM, 2>(s, x, weights, sums),
        _ => of_height::<S, E, STREAM, 1>(s, x, weights, sums),
    }
}

#[inline(always)]
fn of_height<S: Simd, E: Element, const STREAM: bool, const H: usize>(
    s: S,
    x: &[f32],
    weights: &[[E; PANEL]],
    sums: &mut [Line],
) {
    let Some(sums) = sums.first_chunk_mut() else { return };
    s.outline(Tile::<E, STREAM, H> { x: x.as_chunks().0, weights, sums });
}

struct Tile<'a, E, const STREAM: bool, const H: usize> {
    x: &'a [[f32; H]],
    weights: &'a [[E; PANEL]],
    sums: &'a mut [Line; H],
}

impl<E: Element, const STREAM: bool, const H: usize> Kernel for Tile<'_, E, STREAM, H> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if S::WIDE || H <= 2 {
            wide::<S, E, STREAM, H>(s, self.x, self.weights, self.sums);
        } else {
            narrow::<S, E, STREAM, H, 0>(s, self.x, self.weights, self.sums);
            narrow::<S, E, false, H, 1>(s, self.x, self.weights, self.sums);
        }
    }
}

/// Both vectors of a line at once.
#[inline(always)]
fn wide<S: Simd, E: Element, const STREAM: bool, const H: usize>(
    s: S,
    x: &[[f32; H]],
    weights: &[[E; PANEL]],
    sums: &mut [Line; H],
) {
    let mut acc = [[s.splat(0.0); 2]; H];
    for r in 0..H {
        let (halves, _) = sums[r].as_chunks::<LANES>();
        acc[r] = [s.load(&halves[0]), s.load(&halves[1])];
    }
    for (x, line) in x.iter().zip(weights) {
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
        let (halves, _) = sums[r].as_chunks_mut::<LANES>();
        s.store(acc[r][0], &mut halves[0]);
        s.store(acc[r][1], &mut halves[1]);
    }
}

/// One vector of a line, where the register file is small.
#[inline(always)]
fn narrow<S: Simd, E: Element, const STREAM: bool, const H: usize, const HALF: usize>(
    s: S,
    x: &[[f32; H]],
    weights: &[[E; PANEL]],
    sums: &mut [Line; H],
) {
    let mut acc = [s.splat(0.0); H];
    for r in 0..H {
        acc[r] = s.load(&sums[r].as_chunks::<LANES>().0[HALF]);
    }
    for (x, line) in x.iter().zip(weights) {
        if STREAM {
            prefetch(s, line);
        }
        let weights = E::line(s, line)[HALF];
        for r in 0..H {
            acc[r] = s.fma(s.splat(x[r]), weights, acc[r]);
        }
    }
    for r in 0..H {
        s.store(acc[r], &mut sums[r].as_chunks_mut::<LANES>().0[HALF]);
    }
}
