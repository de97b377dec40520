//! A pass's rows as the kernels want them, uploaded once for all layers.

use std::sync::Arc;

use tessera_types::BLOCK_TOKENS;

use super::{CudaDevice, attention, layout::Layout, workspace::Region};
use crate::{DeviceError, Rows, Spans};

/// Blocks that the keys of a split take.
const SPLIT_BLOCKS: usize = attention::SPLIT / BLOCK_TOKENS;

/// Rows on the device: runs of 32-bit integers, one behind the other.
pub struct CudaRows {
    memory: Arc<Region>,
    pub(super) rows: usize,
    /// The farthest position of any row.
    pub(super) farthest: usize,
    /// The highest block of any row.
    pub(super) highest_block: usize,
    pub(super) has_tokens: bool,
    offsets: Offsets,
    /// Rows that attend alone, one a sequence.
    pub(super) singles: usize,
    /// Splits of keys that all of them have, at most.
    pub(super) splits: usize,
    /// Runs of rows that attend together, and the rows of the largest.
    pub(super) tiles: usize,
    pub(super) largest_tile: usize,
    pub(super) images: bool,
    /// What tells a recording of this pass from others.
    pub(super) recording: Option<u64>,
}

/// Where each run begins, in integers.
#[derive(Clone, Copy, Debug, Default)]
struct Offsets {
    positions: usize,
    slots: usize,
    singles: usize,
    tiles: usize,
    tables: usize,
}

impl CudaRows {
    fn at(&self, offset: usize) -> u64 {
        self.memory.address() + (offset * size_of::<i32>()) as u64
    }

    /// `int[rows]`: token ids, -1 where there is none.
    pub(super) fn tokens(&self) -> u64 {
        self.at(0)
    }

    /// `int[rows]`.
    pub(super) fn positions(&self) -> u64 {
        self.at(self.offsets.positions)
    }

    /// `int[rows]`: where in the cache each row's key goes, in tokens.
    pub(super) fn slots(&self) -> u64 {
        self.at(self.offsets.slots)
    }

    /// `int[]`: block ids, one sequence's behind the other's.
    pub(super) fn tables(&self) -> u64 {
        self.at(self.offsets.tables)
    }

    /// `AttendRow[singles]`.
    pub(super) fn singles_address(&self) -> u64 {
        self.at(self.offsets.singles)
    }

    /// `AttendTile[tiles]`.
    pub(super) fn tiles_address(&self) -> u64 {
        self.at(self.offsets.tiles)
    }
}

impl CudaDevice {
    /// See [`crate::Device::place`].
    pub(super) fn place_rows(&self, rows: Rows<'_>) -> Result<CudaRows, DeviceError> {
        self.context.bind()?;
        let count = rows.positions.len();
        let (layout, images) = match rows.spans {
            Spans::Chunks(chunks) => (Layout::chunks(count, chunks)?, false),
            Spans::Images(spans) => (Layout::images(spans)?, true),
        };
        let tokens = rows.tokens.iter().map(|token| token.map_or(-1, |token| token.0 as i32));
        let mut numbers: Vec<i32> = tokens.collect();
        let mut offsets = Offsets::default();
        let mut append = |offset: &mut usize, run: &mut dyn Iterator<Item = i32>| {
            // Records of four integers begin where they can be read at once.
            numbers.resize(numbers.len().next_multiple_of(4), 0);
            *offset = numbers.len();
            numbers.extend(run);
        };
        append(&mut offsets.positions, &mut rows.positions.iter().map(|position| *position as i32));
        append(&mut offsets.slots, &mut layout.slots.iter().copied());
        append(&mut offsets.singles, &mut layout.singles.iter().flatten().copied());
        append(&mut offsets.tiles, &mut layout.tiles.iter().flatten().copied());
        // Last, since theirs is the length that passes of one recording do not share.
        append(&mut offsets.tables, &mut layout.tables.iter().copied());
        // A power of two, so that passes can share a recording.
        let most_splits = layout.splits.next_power_of_two();
        // An image's feature is laid in its place from where no recording knows.
        let all_tokens = rows.tokens.len() == count && rows.tokens.iter().all(Option::is_some);
        let key = self.recording_key(count, most_splits, !images && layout.singles.len() == count && all_tokens);
        let most = (offsets.tables + most_splits * SPLIT_BLOCKS) * size_of::<i32>();
        // Where recordings have no more room, this pass is not recorded.
        let place = key.and_then(|key| Some((key, self.recordings.rows(key, || self.recorded.take(most)).ok()?)));
        let (recording, splits, memory) = match place {
            Some((key, place)) => (Some(key), most_splits, place),
            None => (None, layout.splits, Arc::new(self.workspace.take(size_of_val(&*numbers))?)),
        };
        self.upload(memory.address(), &numbers)?;
        let highest_slot = layout.slots.iter().copied().max().unwrap_or(0).max(0) as usize;
        Ok(CudaRows {
            memory,
            rows: count,
            farthest: rows.positions.iter().copied().max().unwrap_or(0) as usize,
            highest_block: highest_slot / BLOCK_TOKENS,
            has_tokens: rows.tokens.len() == count,
            offsets,
            singles: layout.singles.len(),
            splits,
            tiles: layout.tiles.len(),
            largest_tile: layout.largest_tile(),
            images,
            recording,
        })
    }
}
