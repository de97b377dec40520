//! Activations in tiles of a few rows, laid out step by step so that a kernel reads them in sequence.
#![allow(unsafe_code)]

use crate::DeviceError;
use crate::cpu::parts::Parts;
use crate::cpu::pool::Pool;

/// Rows computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Tile {
    /// Its first row.
    pub(in crate::cpu) first: usize,
    /// Rows it holds.
    pub(in crate::cpu) rows: usize,
    /// Rows it computes, the last ones being copies where there are fewer.
    pub(in crate::cpu) height: usize,
}

/// Cuts `rows` into tiles of the highest height, and the rest into the lowest that holds it.
pub(in crate::cpu) fn tiles(rows: usize, heights: &[usize]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut first = 0;
    while first < rows {
        let left = rows - first;
        let height = heights.iter().rev().find(|height| **height >= left).unwrap_or(&heights[0]);
        let tile = Tile { first, rows: left.min(*height), height: *height };
        first += tile.rows;
        tiles.push(tile);
    }
    tiles
}

/// Rows that the tiles compute; only the last computes more than it holds.
pub(super) fn padded(tiles: &[Tile]) -> usize {
    tiles.iter().map(|tile| tile.height).sum()
}

/// Packs `x` `[_, inner]` into `to`, tile by tile as `[inner][height]`.
pub(super) fn pack<'a>(
    pool: &Pool,
    x: &[f32],
    inner: usize,
    tiles: &[Tile],
    to: &'a mut [f32],
) -> Result<&'a [f32], DeviceError> {
    /// Steps a task packs.
    const STEPS: usize = 512;
    let runs = inner.div_ceil(STEPS);
    let parts = Parts::new(to);
    pool.run(2 * padded(tiles) * inner, tiles.len() * runs, |task| {
        let (tile, start) = (tiles[task / runs], task % runs * STEPS);
        let end = inner.min(start + STEPS);
        let base = tile.first * inner;
        // SAFETY: tiles do not overlap, nor do the steps of one.
        let to = unsafe { parts.claim(base + start * tile.height..base + end * tile.height) };
        let row = |r: usize| {
            let row = (tile.first + r.min(tile.rows - 1)) * inner;
            &x[row + start..row + end]
        };
        match tile.height {
            12 => interleave::<12>(row, to),
            8 => interleave::<8>(row, to),
            6 => interleave::<6>(row, to),
            4 => interleave::<4>(row, to),
            2 => interleave::<2>(row, to),
            _ => interleave::<1>(row, to),
        }
    })?;
    Ok(to)
}

fn interleave<'a, const H: usize>(row: impl Fn(usize) -> &'a [f32], to: &mut [f32]) {
    let rows: [&[f32]; H] = std::array::from_fn(row);
    for (step, to) in to.as_chunks_mut::<H>().0.iter_mut().enumerate() {
        for (to, row) in to.iter_mut().zip(rows) {
            *to = row[step];
        }
    }
}
