//! Which rows of a pass attend to which keys, in the records of the kernels.

use std::{cmp::Reverse, ops::Range};

use tessera_types::{BLOCK_TOKENS, BlockId};

use super::{attention, kernel::int};
use crate::{ChunkSpan, DeviceError};

/// The integers of a pass while they are laid out.
#[derive(Default)]
pub(super) struct Layout {
    /// Where each row's key goes in the cache, in tokens; -1 where there is no cache.
    pub(super) slots: Vec<i32>,
    /// Block ids, one sequence's behind the other's.
    pub(super) tables: Vec<i32>,
    /// `AttendRow`s: row, keys it sees, where its blocks begin in `tables`, splits of the rows before it.
    pub(super) singles: Vec<[i32; 4]>,
    /// `AttendTile`s: first row, rows, and of a sequence: position of the first row, where its blocks begin in `tables`; of an
    /// image: its first row, its rows. Those that see the most keys come first, since a device begins blocks in order.
    pub(super) tiles: Vec<[i32; 4]>,
    /// Splits of keys that all single rows have.
    pub(super) splits: usize,
}

impl Layout {
    /// Rows of sequences: single ones attend by splits of their keys, longer chunks by tiles of their rows.
    pub(super) fn chunks(rows: usize, chunks: &[ChunkSpan<'_>]) -> Result<Self, DeviceError> {
        let mut layout = Self { slots: vec![-1; rows], ..Self::default() };
        for chunk in chunks {
            layout.chunk(chunk)?;
        }
        layout.tiles.sort_by_key(|[_, count, start, _]| Reverse(start + count));
        Ok(layout)
    }

    fn chunk(&mut self, chunk: &ChunkSpan<'_>) -> Result<(), DeviceError> {
        let (end, table) = (chunk.start + chunk.rows.len(), int(self.tables.len())?);
        if end > chunk.blocks.len() * BLOCK_TOKENS || chunk.rows.end > self.slots.len() {
            let detail = format!("rows {:?} up to position {end} in {} blocks", chunk.rows, chunk.blocks.len());
            return Err(DeviceError::Shape { operation: "place", detail });
        }
        for (position, row) in (chunk.start..end).zip(chunk.rows.clone()) {
            let block = chunk.blocks[position / BLOCK_TOKENS].0 as usize;
            self.slots[row] = int(block * BLOCK_TOKENS + position % BLOCK_TOKENS)?;
        }
        let used = &chunk.blocks[..end.div_ceil(BLOCK_TOKENS)];
        self.tables.extend(used.iter().map(|BlockId(block)| *block as i32));
        if chunk.rows.len() == 1 {
            self.singles.push([int(chunk.rows.start)?, int(end)?, table, int(self.splits)?]);
            self.splits += end.div_ceil(attention::SPLIT);
            return Ok(());
        }
        for first in chunk.rows.clone().step_by(attention::TILE) {
            let count = attention::TILE.min(chunk.rows.end - first);
            self.tiles.push([int(first)?, int(count)?, int(chunk.start + first - chunk.rows.start)?, table]);
        }
        Ok(())
    }

    /// Rows of images: every tile sees its own image's rows.
    pub(super) fn images(images: &[Range<usize>]) -> Result<Self, DeviceError> {
        let mut layout = Self::default();
        for image in images {
            for first in image.clone().step_by(attention::TILE) {
                let count = attention::TILE.min(image.end - first);
                layout.tiles.push([int(first)?, int(count)?, int(image.start)?, int(image.len())?]);
            }
        }
        layout.tiles.sort_by_key(|[_, _, _, rows]| Reverse(*rows));
        Ok(layout)
    }

    /// Rows of the largest tile.
    pub(super) fn largest_tile(&self) -> usize {
        self.tiles.iter().map(|[_, count, ..]| *count as usize).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Chunks of rows, one behind the other, each of a sequence with so many tokens before it.
    fn laid_out(chunks: &[(usize, usize)]) -> (Layout, usize) {
        let blocks: Vec<Vec<BlockId>> =
            (0..).zip(chunks).map(|(id, (before, rows))| vec![BlockId(id); (before + rows).div_ceil(BLOCK_TOKENS)]).collect();
        let mut at = 0;
        let spans: Vec<_> = chunks
            .iter()
            .zip(&blocks)
            .map(|((before, rows), blocks)| {
                at += rows;
                ChunkSpan { rows: at - rows..at, start: *before, blocks }
            })
            .collect();
        (Layout::chunks(at, &spans).unwrap(), at)
    }

    proptest! {
        #[test]
        fn rows_have_room_for_their_own_splits_and_no_more(chunks in prop::collection::vec((0..3000_usize, 1..200_usize), 0..20)) {
            let (layout, _) = laid_out(&chunks);
            let mut splits = 0;
            for [_, length, _, first] in &layout.singles {
                prop_assert_eq!(*first as usize, splits);
                splits += (*length as usize).div_ceil(128);
            }
            prop_assert_eq!(splits, layout.splits);
        }

        #[test]
        fn every_row_finds_its_blocks(chunks in prop::collection::vec((0..3000_usize, 1..200_usize), 0..20)) {
            let (layout, _) = laid_out(&chunks);
            let singles = layout.singles.iter().map(|[row, length, table, _]| (*row, 1, *length, *table));
            let tiles = layout.tiles.iter().map(|[row, count, start, table]| (*row, *count, start + count, *table));
            let mut found = 0;
            for (row, count, keys, table) in singles.chain(tiles) {
                found += count as usize;
                // The blocks of chunk i are all block i.
                let mut rows = 0;
                let of = chunks.iter().position(|(_, count)| { rows += count; (row as usize) < rows }).unwrap() as i32;
                let used = &layout.tables[table as usize..][..(keys as usize).div_ceil(BLOCK_TOKENS)];
                prop_assert!(used.iter().all(|block| *block == of));
            }
            prop_assert_eq!(found, layout.slots.len());
        }

        #[test]
        fn the_tiles_that_cost_most_come_first(
            chunks in prop::collection::vec((0..3000_usize, 2..300_usize), 0..20),
            images in prop::collection::vec(1..300_usize, 0..20),
        ) {
            let keys: Vec<i32> = laid_out(&chunks).0.tiles.iter().map(|[_, count, start, _]| start + count).collect();
            prop_assert!(keys.is_sorted_by(|a, b| a >= b), "{:?}", keys);
            let mut at = 0;
            let spans: Vec<_> = images.iter().map(|rows| { at += rows; at - rows..at }).collect();
            let keys: Vec<i32> = Layout::images(&spans).unwrap().tiles.iter().map(|tile| tile[3]).collect();
            prop_assert!(keys.is_sorted_by(|a, b| a >= b), "{:?}", keys);
        }
    }

    #[test]
    fn one_long_row_among_short_ones_costs_what_it_sees() {
        let mut chunks = vec![(65_535, 1)];
        chunks.extend([(99, 1); 63]);
        let (layout, _) = laid_out(&chunks);
        assert_eq!(layout.splits, 512 + 63);
        assert_eq!(layout.tables.len(), 4096 + 63 * 7);
    }
}
