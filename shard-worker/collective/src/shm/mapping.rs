//! The memory that ranks share: a header with a line for each rank, then two slots for each.

#![expect(unsafe_code, reason = "shared memory between processes")]

use std::{
    fs::File,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use memmap2::MmapRaw;

use super::{futex, presence};
use crate::CollectiveError;

/// Bytes of one slot. Larger messages go in several exchanges.
pub(super) const SLOT_BYTES: usize = 1 << 20;

/// A rank's line of the header, apart from the others' so that they do not contend for cache lines.
#[repr(C, align(128))]
struct Line {
    /// The last exchange the rank put its part into.
    arrived: AtomicU32,
    /// Ranks asleep on `arrived`.
    sleepers: AtomicU32,
    /// Not 0 once the rank has its place.
    joined: AtomicU32,
    /// Not 0 once the rank left the group.
    left: AtomicU32,
    /// What each of the two slots holds.
    headers: [AtomicU64; 2],
}

pub(super) struct Mapping {
    map: MmapRaw,
    /// Holds this rank's place.
    file: File,
    size: usize,
}

impl Mapping {
    /// Maps a file in which the rank has its place.
    pub(super) fn new(file: File, rank: usize, size: usize) -> Result<Self, CollectiveError> {
        let failed = |error: std::io::Error| CollectiveError::Io {
            context: "cannot map the group's shared memory".into(),
            error: error.to_string(),
        };
        let map = MmapRaw::map_raw(&file).map_err(failed)?;
        let mapping = Self { map, file, size };
        mapping.line(rank).joined.store(1, Ordering::Release);
        Ok(mapping)
    }

    fn line(&self, rank: usize) -> &Line {
        debug_assert!(rank < self.size);
        // SAFETY: the file begins with `size` lines, page-aligned and zeroed when made; every field is atomic, so ranks may
        // share them.
        unsafe { &*self.map.as_mut_ptr().cast::<Line>().add(rank) }
    }

    fn slot(&self, rank: usize, sequence: u32) -> *mut u8 {
        debug_assert!(rank < self.size);
        let index = 2 * rank + sequence as usize % 2;
        // SAFETY: `bytes` made room for the header and two slots a rank.
        unsafe { self.map.as_mut_ptr().add(header_bytes(self.size) + index * SLOT_BYTES) }
    }

    /// Fills the rank's own slot of an exchange.
    pub(super) fn write(&self, rank: usize, sequence: u32, header: u64, part: &[u8]) {
        assert!(part.len() <= SLOT_BYTES, "a part larger than its slot");
        self.line(rank).headers[sequence as usize % 2].store(header, Ordering::Relaxed);
        // SAFETY: the slot is this rank's, `part` fits, and no other rank reads it before `arrive`: all have begun the
        // exchange before this one, so have finished reading the slot's last contents.
        unsafe { self.slot(rank, sequence).copy_from_nonoverlapping(part.as_ptr(), part.len()) }
    }

    /// Says that the rank's part is there.
    pub(super) fn arrive(&self, rank: usize, sequence: u32) {
        let line = self.line(rank);
        line.arrived.store(sequence, Ordering::SeqCst);
        if line.sleepers.load(Ordering::SeqCst) > 0 {
            futex::wake_all(&line.arrived);
        }
    }

    /// Whether the rank's part of the exchange is there. Sequences wrap, and ranks are at most one apart.
    pub(super) fn has_arrived(&self, rank: usize, sequence: u32) -> bool {
        self.line(rank).arrived.load(Ordering::Acquire).wrapping_sub(sequence) as i32 >= 0
    }

    /// Sleeps until the rank arrives at another exchange, someone leaves, or the time is over.
    pub(super) fn sleep(&self, rank: usize, sequence: u32, timeout: Duration) {
        let line = self.line(rank);
        line.sleepers.fetch_add(1, Ordering::SeqCst);
        let seen = line.arrived.load(Ordering::SeqCst);
        if (seen.wrapping_sub(sequence) as i32) < 0 && line.left.load(Ordering::SeqCst) == 0 {
            futex::wait(&line.arrived, seen, timeout);
        }
        line.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Marks the rank as gone and wakes everyone.
    pub(super) fn leave(&self, rank: usize) {
        self.line(rank).left.store(1, Ordering::SeqCst);
        (0..self.size).for_each(|other| futex::wake_all(&self.line(other).arrived));
    }

    /// Whether the rank left, or died.
    pub(super) fn is_gone(&self, rank: usize) -> bool {
        let line = self.line(rank);
        let joined = line.joined.load(Ordering::Acquire) != 0;
        line.left.load(Ordering::SeqCst) != 0 || joined && presence::is_taken(&self.file, rank).is_ok_and(|taken| !taken)
    }

    /// What the rank said of the exchange that it arrived at.
    pub(super) fn header(&self, rank: usize, sequence: u32) -> u64 {
        self.line(rank).headers[sequence as usize % 2].load(Ordering::Acquire)
    }

    /// What the rank put into an exchange that all have arrived at and this rank has not left behind.
    pub(super) fn read(&self, rank: usize, sequence: u32, len: usize) -> &[u8] {
        assert!(len <= SLOT_BYTES, "a part larger than its slot");
        // SAFETY: the slot is `SLOT_BYTES` long; its rank does not write it again before this rank arrives at the next
        // exchange, which takes `&mut` of the collective that lends this slice.
        unsafe { std::slice::from_raw_parts(self.slot(rank, sequence), len) }
    }
}

fn header_bytes(size: usize) -> usize {
    (size * size_of::<Line>()).next_multiple_of(4096)
}

/// Of a group's whole file.
pub(super) fn bytes(size: usize) -> usize {
    header_bytes(size) + 2 * size * SLOT_BYTES
}
