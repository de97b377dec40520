//! A pass's rows as the kernels want them, uploaded once for all layers.

use std::sync::Arc;

use tessera_types::{BLOCK_TOKENS, BlockId};

use super::{CudaDevice, attention, kernel::int, workspace::Region};
use crate::{ChunkSpan, DeviceError, Rows, Spans};

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
    /// Blocks a row of `tables` has.
    pub(super) table_stride: usize,
    /// Rows that attend alone, one a sequence.
    pub(super) singles: usize,
    /// Splits of keys that the longest of them has.
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
    tables: usize,
    singles: usize,
    tiles: usize,
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

    /// `int[chunks][table_stride]`: block ids.
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

/// The integers of a pass while they are laid out.
#[derive(Default)]
struct Layout {
    slots: Vec<i32>,
    tables: Vec<i32>,
    table_stride: usize,
    singles: Vec<[i32; 4]>,
    tiles: Vec<[i32; 4]>,
    longest_single: usize,
}

impl Layout {
    /// Rows of sequences: single ones attend by splits of their keys, longer chunks by tiles of their rows.
    fn chunks(rows: usize, chunks: &[ChunkSpan<'_>]) -> Result<Self, DeviceError> {
        let mut layout = Self { slots: vec![-1; rows], ..Self::default() };
        let single = chunks.iter().filter(|chunk| chunk.rows.len() == 1).map(|chunk| chunk.start + 1).max().unwrap_or(0);
        layout.longest_single = single;
        let longest = chunks.iter().map(|chunk| (chunk.start + chunk.rows.len()).div_ceil(BLOCK_TOKENS)).max().unwrap_or(0);
        // Recorded passes have tables of one width for all lengths that have as many splits.
        layout.table_stride = longest.max(attention::splits(single) * attention::SPLIT / BLOCK_TOKENS);
        for (table, chunk) in chunks.iter().enumerate() {
            layout.chunk(table, chunk)?;
        }
        Ok(layout)
    }

    fn chunk(&mut self, table: usize, chunk: &ChunkSpan<'_>) -> Result<(), DeviceError> {
        let (end, table) = (chunk.start + chunk.rows.len(), int(table)?);
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
        self.tables.resize(self.tables.len() + self.table_stride - used.len(), 0);
        if chunk.rows.len() == 1 {
            self.singles.push([int(chunk.rows.start)?, int(end)?, table, 0]);
            return Ok(());
        }
        for first in chunk.rows.clone().step_by(attention::TILE) {
            let count = attention::TILE.min(chunk.rows.end - first);
            self.tiles.push([int(first)?, int(count)?, int(chunk.start + first - chunk.rows.start)?, table]);
        }
        Ok(())
    }

    /// Rows of images: every tile sees its own image's rows.
    fn images(images: &[std::ops::Range<usize>]) -> Result<Self, DeviceError> {
        let mut layout = Self::default();
        for image in images {
            for first in image.clone().step_by(attention::TILE) {
                let count = attention::TILE.min(image.end - first);
                layout.tiles.push([int(first)?, int(count)?, int(image.start)?, int(image.len())?]);
            }
        }
        Ok(layout)
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
        append(&mut offsets.tables, &mut layout.tables.iter().copied());
        append(&mut offsets.singles, &mut layout.singles.iter().flatten().copied());
        append(&mut offsets.tiles, &mut layout.tiles.iter().flatten().copied());
        let splits = attention::splits(layout.longest_single);
        // An image's feature is laid in its place from where no recording knows.
        let all_tokens = rows.tokens.len() == count && rows.tokens.iter().all(Option::is_some);
        let recording = self.recording_key(count, splits, !images && layout.singles.len() == count && all_tokens);
        let memory = match recording {
            Some(key) => self.recordings.rows(key, || self.recorded.take(size_of_val(&*numbers)))?,
            None => Arc::new(self.workspace.take(size_of_val(&*numbers))?),
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
            table_stride: layout.table_stride,
            singles: layout.singles.len(),
            splits,
            tiles: layout.tiles.len(),
            largest_tile: layout.tiles.iter().map(|[_, count, ..]| *count as usize).max().unwrap_or(0),
            images,
            recording,
        })
    }
}
