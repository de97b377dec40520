//! Some rows of a chunk by the query heads of one key head: what a task computes.
#![allow(unsafe_code)]

use std::ops::Range;

use super::span::{SPAN, Spans, State, TALLEST};
use super::{Attention, Mask};
use crate::cpu::cache::Pages;
use crate::cpu::element::Element;
use crate::cpu::gemm::{Tile, tiles};
use crate::cpu::parts::Parts;
use crate::cpu::scratch::with_scratch;
use crate::cpu::simd::{Kernel, Simd, sum};
use crate::{ChunkSpan, Heads};

/// Queries are numbered row by row, and by query head within.
pub(super) struct Group<'a> {
    pub(super) chunk: &'a ChunkSpan<'a>,
    /// Counted from the chunk's first.
    pub(super) rows: Range<usize>,
    pub(super) head: usize,
}

impl Attention<'_> {
    /// Computes a group.
    pub(super) fn attend<E: Element>(&self, pages: &Pages<&[E]>, group: &Group<'_>, out: &Parts<'_, f32>) {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let tiles = tiles(group.rows.len() * (heads / kv_heads), self.isa.heights());
        let numbers = tiles.iter().map(|tile| State::numbers(tile.height, head_dim, pages.layout.width)).sum();
        with_scratch(numbers, |memory| {
            self.isa.run(Run { attention: self, pages, group, tiles: &tiles, memory, out });
        });
    }
}

struct Run<'a, E: Element> {
    attention: &'a Attention<'a>,
    pages: &'a Pages<&'a [E]>,
    group: &'a Group<'a>,
    tiles: &'a [Tile],
    memory: &'a mut [f32],
    out: &'a Parts<'a, f32>,
}

impl<E: Element> Kernel for Run<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Heads { heads, kv_heads, head_dim } = self.attention.heads;
        let (group, width) = (heads / kv_heads, self.pages.layout.width);
        let mut states = Vec::with_capacity(self.tiles.len());
        let mut memory = std::mem::take(&mut self.memory);
        for tile in self.tiles {
            let (own, rest) = memory.split_at_mut(State::numbers(tile.height, head_dim, width));
            memory = rest;
            let mut state = State::new(own, tile.height, head_dim, width);
            self.load(tile, group, &mut state);
            states.push(state);
        }
        let spans =
            Spans { pages: self.pages, blocks: self.group.chunk.blocks, layer: self.attention.layer, head: self.group.head };
        let all = self.visible(self.group.rows.end - 1);
        for first in (0..all).step_by(SPAN) {
            for (tile, state) in self.tiles.iter().zip(&mut states) {
                let visible = |query: usize| self.visible(self.group.rows.start + query / group).saturating_sub(first).min(SPAN);
                let mut keys = [0; TALLEST];
                for (i, keys) in keys.iter_mut().take(tile.height).enumerate() {
                    *keys = visible(tile.first + i.min(tile.rows - 1));
                }
                spans.walk(s, tile.height, first, &keys, state);
            }
        }
        for (tile, state) in self.tiles.iter().zip(&states) {
            self.finish(s, tile, group, state);
        }
    }
}

impl<E: Element> Run<'_, E> {
    /// Keys that a row of the chunk sees.
    fn visible(&self, row: usize) -> usize {
        let chunk = self.group.chunk;
        match self.attention.mask {
            Mask::Causal => chunk.start + row + 1,
            Mask::Full => chunk.start + chunk.rows.len(),
        }
    }

    /// The batch's row of a query, and its head.
    fn place(&self, query: usize, group: usize) -> (usize, usize) {
        (self.group.chunk.rows.start + self.group.rows.start + query / group, self.group.head * group + query % group)
    }

    /// Queries, scaled, laid out dimension by dimension.
    fn load(&self, tile: &Tile, group: usize, state: &mut State<'_>) {
        let heads = self.attention.heads;
        let scale = 1.0 / (heads.head_dim as f32).sqrt();
        for r in 0..tile.height {
            let (row, head) = self.place(tile.first + r.min(tile.rows - 1), group);
            let query = &self.attention.qkv[row * heads.fused() + head * heads.head_dim..][..heads.head_dim];
            for (to, x) in state.queries[r..].iter_mut().step_by(tile.height).zip(query) {
                *to = x * scale;
            }
        }
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, tile: &Tile, group: usize, state: &State<'_>) {
        let Heads { heads, head_dim, .. } = self.attention.heads;
        let width = self.pages.layout.width;
        for r in 0..tile.rows {
            let (row, head) = self.place(tile.first + r, group);
            let weight = sum(s, s.load(&state.weights[r]));
            let at = (row * heads + head) * head_dim;
            // SAFETY: chunks share no rows, and a row's heads belong to one task each.
            let out = unsafe { self.out.claim(at..at + head_dim) };
            for (out, x) in out.iter_mut().zip(&state.sums[r * width..]) {
                *out = x / weight;
            }
        }
    }
}
