//! The inner loop: a register tile of a few rows by 32 outputs.

use crate::cpu::element::{Element, PANEL};
use crate::cpu::simd::{LANES, Simd};

/// A line of sums, one for each output of a panel.
pub(super) type Line = [f32; PANEL];

/// `sums[r] += x[.][r] * weights[.]`, step by step in order, for a tile of `height` rows.
#[inline(always)]
pub(super) fn accumulate<S: Simd, E: Element>(s: S, height: usize, x: &[f32], weights: &[[E; PANEL]], sums: &mut [Line]) {
    match height {
        12 => of_height::<S, E, 12>(s, x, weights, sums),
        8 => of_height::<S, E, 8>(s, x, weights, sums),
        6 => of_height::<S, E, 6>(s, x, weights, sums),
        4 => of_height::<S, E, 4>(s, x, weights, sums),
        2 => of_height::<S, E, 2>(s, x, weights, sums),
        _ => of_height::<S, E, 1>(s, x, weights, sums),
    }
}

#[inline(always)]
fn of_height<S: Simd, E: Element, const H: usize>(s: S, x: &[f32], weights: &[[E; PANEL]], sums: &mut [Line]) {
    let x: &[[f32; H]] = x.as_chunks().0;
    let Some(sums) = sums.first_chunk_mut::<H>() else { return };
    if S::WIDE || H <= 2 {
        wide(s, x, weights, sums);
    } else {
        narrow::<S, E, H, 0>(s, x, weights, sums);
        narrow::<S, E, H, 1>(s, x, weights, sums);
    }
}

/// Both vectors of a line at once.
#[inline(always)]
fn wide<S: Simd, E: Element, const H: usize>(s: S, x: &[[f32; H]], weights: &[[E; PANEL]], sums: &mut [Line; H]) {
    let mut acc = [[s.splat(0.0); 2]; H];
    for (acc, sums) in acc.iter_mut().zip(&*sums) {
        let (halves, _) = sums.as_chunks::<LANES>();
        *acc = [s.load(&halves[0]), s.load(&halves[1])];
    }
    for (x, line) in x.iter().zip(weights) {
        let [low, high] = E::line(s, line);
        for (acc, x) in acc.iter_mut().zip(x) {
            let x = s.splat(*x);
            *acc = [s.fma(x, low, acc[0]), s.fma(x, high, acc[1])];
        }
    }
    for (acc, sums) in acc.iter().zip(sums) {
        let (halves, _) = sums.as_chunks_mut::<LANES>();
        s.store(acc[0], &mut halves[0]);
        s.store(acc[1], &mut halves[1]);
    }
}

/// One vector of a line, where the register file is small.
#[inline(always)]
fn narrow<S: Simd, E: Element, const H: usize, const HALF: usize>(
    s: S,
    x: &[[f32; H]],
    weights: &[[E; PANEL]],
    sums: &mut [Line; H],
) {
    let mut acc = [s.splat(0.0); H];
    for (acc, sums) in acc.iter_mut().zip(&*sums) {
        *acc = s.load(&sums.as_chunks::<LANES>().0[HALF]);
    }
    for (x, line) in x.iter().zip(weights) {
        let weights = E::line(s, line)[HALF];
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc = s.fma(s.splat(*x), weights, *acc);
        }
    }
    for (acc, sums) in acc.iter().zip(sums) {
        s.store(*acc, &mut sums.as_chunks_mut::<LANES>().0[HALF]);
    }
}
