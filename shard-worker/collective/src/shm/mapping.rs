//! The file that ranks share: a header with a word for each rank, then two slots for each.

#![expect(unsafe_code, reason = "shared memory between processes")]

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use memmap2::MmapRaw;
use tessera_types::Rank;

use super::futex;
use crate::{CollectiveError, GroupConfig};

/// Bytes of one slot. Larger messages go in several exchanges.
pub(super) const SLOT_BYTES: usize = 1 << 20;
/// Where shared memory appears as files.
const FOLDER: &str = "/dev/shm";

/// A rank's line of the header, apart from the others' so that they do not contend for cache lines.
#[repr(C, align(128))]
struct Line {
    /// The last exchange the rank put its part into.
    arrived: AtomicU32,
    /// Ranks asleep on `arrived`.
    sleepers: AtomicU32,
    /// Not 0 once the rank left the group.
    left: AtomicU32,
    /// The rank's process, to notice its death.
    process: AtomicU32,
    /// What each of the two slots holds.
    headers: [AtomicU64; 2],
}

pub(super) struct Mapping {
    map: MmapRaw,
    path: PathBuf,
    size: usize,
}

impl Mapping {
    /// Rank 0 makes the file under a passing name and renames it when it is whole; the others wait for it.
    pub(super) fn open(config: &GroupConfig) -> Result<Self, CollectiveError> {
        let path = PathBuf::from(FOLDER).join(format!("tessera-{}-{}", config.group, config.epoch));
        let size = config.size;
        let file = if config.rank == Rank(0) { create(&path, bytes(size)) } else { await_file(&path, config) }?;
        let map = MmapRaw::map_raw(&file).map_err(|error| io("map", &path, &error))?;
        if map.len() < bytes(size) {
            return Err(CollectiveError::Mismatch(format!("{} is for a smaller group", path.display())));
        }
        let mapping = Self { map, path, size };
        mapping.line(usize::from(config.rank.0)).process.store(process::id(), Ordering::Release);
        Ok(mapping)
    }

    /// Takes the name away; the memory lives as long as a rank has it mapped.
    pub(super) fn unlink(&self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
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

    /// Sleeps until the rank arrives at another exchange, leaves, or the time is over.
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

    pub(super) fn has_left(&self, rank: usize) -> bool {
        self.line(rank).left.load(Ordering::Acquire) != 0
    }

    /// Whether the rank joined once and its process is gone.
    pub(super) fn is_dead(&self, rank: usize) -> bool {
        let id = self.line(rank).process.load(Ordering::Acquire);
        // SAFETY: signal 0 only asks whether the process exists.
        id != 0 && unsafe { libc::kill(id as libc::pid_t, 0) } != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
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

fn bytes(size: usize) -> usize {
    header_bytes(size) + 2 * size * SLOT_BYTES
}

fn create(path: &PathBuf, bytes: usize) -> Result<File, CollectiveError> {
    let passing = path.with_extension("new");
    // Left over from a process that died here; no one else has this group and epoch.
    let _ = fs::remove_file(&passing);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&passing);
    let file = file.map_err(|error| io("create", &passing, &error))?;
    file.set_len(bytes as u64).map_err(|error| io("size", &passing, &error))?;
    fs::rename(&passing, path).map_err(|error| io("rename", &passing, &error))?;
    Ok(file)
}

fn await_file(path: &PathBuf, config: &GroupConfig) -> Result<File, CollectiveError> {
    let deadline = Instant::now() + config.deadline;
    loop {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("open", path, &error)),
            Err(_) if Instant::now() >= deadline => {
                let deadline_ms = config.deadline.as_millis() as u64;
                return Err(CollectiveError::Deadline { rank: Rank(0), operation: "join", deadline_ms });
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn io(what: &str, path: &PathBuf, error: &std::io::Error) -> CollectiveError {
    CollectiveError::Io { context: format!("cannot {what} {}", path.display()), error: error.to_string() }
}
