//! What one task computes: all rows of some panels.
//!
//! Few rows are bound by memory: a panel is streamed once, as stored. Many are bound by arithmetic: a run of steps of
//! a panel is widened into the nearest cache and used for every tile, while the tiles' same steps stay in the next.
#![allow(unsafe_code)]

use std::ops::Range;

use super::pack::Packed;
use super::rows::{Tile, padded};
use super::tile::{Line, accumulate, prefetch};
use crate::cpu::element::{Element, PANEL};
use crate::cpu::parts::Parts;
use crate::cpu::scratch::with_scratch;
use crate::cpu::simd::{Isa, Kernel, LANES, Simd, stream};

/// Rows from which widening a panel pays.
const MANY_ROWS: usize = 40;
/// Steps widened together: 12 KiB of weights, beside 5 KiB of a tile's activations.
const STEPS: usize = 96;
/// Tiles whose sums are kept at a time.
const TILES: usize = 32;
/// Saved sums of a tree of eight segments.
const LEVELS: usize = 3;

/// How the panels of a product are shared out.
pub(super) struct Plan {
    widen: bool,
    panels: usize,
    together: usize,
}

impl Plan {
    pub(super) fn new(rows: usize, panels: usize, threads: usize) -> Self {
        let widen = rows >= MANY_ROWS;
        let most = if widen { 4 } else { 2 };
        Self { widen, panels, together: (panels / (4 * threads)).clamp(1, most) }
    }

    pub(super) fn tasks(&self) -> usize {
        self.panels.div_ceil(self.together)
    }

    pub(super) fn panels(&self, task: usize) -> Range<usize> {
        task * self.together..self.panels.min((task + 1) * self.together)
    }
}

/// A task's work.
pub(super) struct Block<'a, E: Element> {
    pub(super) x: &'a [f32],
    pub(super) packed: &'a Packed<E>,
    pub(super) segments: &'a [usize],
    pub(super) tiles: &'a [Tile],
    pub(super) panels: Range<usize>,
    pub(super) plan: &'a Plan,
    pub(super) cols: usize,
    pub(super) out: &'a Parts<'a, f32>,
}

/// Computes a block.
pub(super) fn run<E: Element>(isa: Isa, block: Block<'_, E>) {
    let panels = if block.plan.widen { block.panels.len() } else { 1 };
    let sums = padded(&block.tiles[..block.tiles.len().min(TILES)]) * panels;
    let saved = if block.segments.len() > 2 { LEVELS } else { 0 };
    let wide = if block.plan.widen { STEPS } else { 0 };
    with_scratch((sums * (saved + 1) + wide) * PANEL, |scratch| {
        let (wide, sums) = scratch.as_chunks_mut().0.split_at_mut(wide);
        isa.run(Run { block, wide, sums });
    });
}

struct Run<'a, E: Element> {
    block: Block<'a, E>,
    wide: &'a mut [Line],
    sums: &'a mut [Line],
}

impl<E: Element> Kernel for Run<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let block = &self.block;
        let together = if block.plan.widen { block.panels.len() } else { 1 };
        for tiles in block.tiles.chunks(TILES) {
            for first in block.panels.clone().step_by(together) {
                let part = Part { block, tiles, panels: first..first + together };
                part.compute(s, self.wide, self.sums);
            }
        }
        s.fence();
    }
}

/// Some tiles by some panels: what is summed at a time.
struct Part<'a, E: Element> {
    block: &'a Block<'a, E>,
    tiles: &'a [Tile],
    panels: Range<usize>,
}

impl<E: Element> Part<'_, E> {
    /// Sums each segment from zero. They join as a binary counter counts: a finished segment is added to the saved
    /// sum of its level while there is one, which makes `(s0 + s1) + (s2 + s3)` and so on.
    #[inline(always)]
    fn compute<S: Simd>(&self, s: S, wide: &mut [Line], sums: &mut [Line]) {
        let size = padded(self.tiles) * self.panels.len();
        let (sums, saved) = sums.split_at_mut(size);
        let last = self.block.segments.len() - 2;
        for (index, bounds) in self.block.segments.windows(2).enumerate() {
            self.segment(s, bounds[0]..bounds[1], wide, sums);
            let level = index.trailing_ones() as usize;
            for saved in saved.chunks_exact(size).take(level) {
                add(s, sums, saved);
            }
            if index < last {
                saved[level * size..(level + 1) * size].copy_from_slice(sums);
            }
        }
        self.write(s, sums);
    }

    #[inline(always)]
    fn segment<S: Simd>(&self, s: S, steps: Range<usize>, wide: &mut [Line], sums: &mut [Line]) {
        let rows = padded(self.tiles);
        if steps.is_empty() {
            sums.fill([0.0; PANEL]);
        }
        let run = if self.block.plan.widen { STEPS } else { steps.len().max(1) };
        for start in steps.clone().step_by(run) {
            let carry = start > steps.start;
            let run = start..steps.end.min(start + run);
            for (panel, sums) in self.panels.clone().zip(sums.chunks_exact_mut(rows)) {
                let weights = &self.block.packed.panel(panel)[run.clone()];
                if self.block.plan.widen {
                    let wide = &mut wide[..weights.len()];
                    widen(s, weights, wide);
                    self.accumulate::<S, f32, false>(s, carry, &run, wide, sums);
                } else {
                    self.accumulate::<S, E, true>(s, carry, &run, weights, sums);
                }
            }
        }
    }

    #[inline(always)]
    fn accumulate<S: Simd, W: Element, const STREAM: bool>(
        &self,
        s: S,
        carry: bool,
        steps: &Range<usize>,
        weights: &[[W; PANEL]],
        sums: &mut [Line],
    ) {
        for tile in self.tiles {
            // All tiles but the last are full, so they lie where their rows would.
            let x = &self.block.x[tile.first * self.block.packed.inner()..];
            let x = &x[steps.start * tile.height..steps.end * tile.height];
            accumulate::<S, W, STREAM>(s, tile.height, carry, x, weights, &mut sums[tile.first - self.tiles[0].first..]);
        }
    }

    /// The product is as long as the weights' stream goes on, so its numbers would be out of the caches again before
    /// anyone reads them; and fetching their lines first costs a stream of weights for eight rows a fifth of its speed.
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, sums: &[Line]) {
        let rows: usize = self.tiles.iter().map(|tile| tile.rows).sum();
        for (panel, sums) in self.panels.clone().zip(sums.chunks_exact(padded(self.tiles))) {
            let first = panel * PANEL;
            let width = PANEL.min(self.block.cols - first);
            for (row, sums) in (self.tiles[0].first..).zip(&sums[..rows]) {
                let at = row * self.block.cols + first;
                // SAFETY: a panel's columns belong to one task.
                let out = unsafe { self.block.out.claim(at..at + width) };
                stream(s, sums, out);
            }
        }
    }
}

#[inline(always)]
fn widen<S: Simd, E: Element>(s: S, weights: &[[E; PANEL]], wide: &mut [Line]) {
    for (line, wide) in weights.iter().zip(wide) {
        prefetch(s, line);
        let [low, high] = E::line(s, line);
        let (halves, _) = wide.as_chunks_mut::<LANES>();
        s.store(low, &mut halves[0]);
        s.store(high, &mut halves[1]);
    }
}

#[inline(always)]
fn add<S: Simd>(s: S, sums: &mut [Line], saved: &[Line]) {
    for (sums, saved) in sums.iter_mut().zip(saved) {
        for (sums, saved) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(saved.as_chunks::<LANES>().0) {
            s.store(s.add(s.load(saved), s.load(sums)), sums);
        }
    }
}
