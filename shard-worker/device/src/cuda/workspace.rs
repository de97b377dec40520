//! Memory for what a pass computes with, reserved once at start and shared out from then on.
//!
//! All work of a device runs in order on one stream, so memory that a tensor gives back may be given out again at once:
//! whoever gets it writes to it behind whoever read from it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::context::Memory;
use crate::DeviceError;

/// Alignment of everything given out.
const ALIGNMENT: usize = 256;

/// A stretch of device memory that is shared out.
pub(super) struct Workspace {
    memory: Memory,
    device: String,
    room: Mutex<Room>,
}

/// A part of a workspace, given back when dropped.
pub(super) struct Region {
    workspace: Arc<Workspace>,
    offset: usize,
    bytes: usize,
}

impl Workspace {
    pub(super) fn new(memory: Memory, device: &str) -> Arc<Self> {
        let room = Mutex::new(Room::new(memory.bytes() / ALIGNMENT * ALIGNMENT));
        Arc::new(Self { memory, device: device.to_owned(), room })
    }

    /// Room for `bytes`.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Region, DeviceError> {
        self.region(bytes, Room::take)
    }

    /// Room for what stays long: at the far end, where it parts no room that passes need whole.
    pub(super) fn keep(self: &Arc<Self>, bytes: usize) -> Result<Region, DeviceError> {
        self.region(bytes, Room::take_last)
    }

    fn region(
        self: &Arc<Self>,
        bytes: usize,
        take: impl FnOnce(&mut Room, usize) -> Option<usize>,
    ) -> Result<Region, DeviceError> {
        let taken = bytes.max(1).next_multiple_of(ALIGNMENT);
        let offset = take(&mut self.room.lock().unwrap_or_else(PoisonError::into_inner), taken);
        let offset = offset.ok_or_else(|| DeviceError::OutOfMemory {
            what: format!("a workspace of {} bytes, which is in use,", self.memory.bytes()),
            bytes,
            device: self.device.clone(),
        })?;
        Ok(Region { workspace: self.clone(), offset, bytes: taken })
    }
}

impl Region {
    pub(super) fn address(&self) -> u64 {
        self.workspace.memory.address() + self.offset as u64
    }

    /// The same place, which others may be given from now on: for what is used only before whoever comes next.
    pub(super) fn given_back(self) -> Self {
        Self { workspace: self.workspace.clone(), offset: self.offset, bytes: 0 }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.workspace.room.lock().unwrap_or_else(PoisonError::into_inner).give(self.offset, self.bytes);
        }
    }
}

/// Which stretches are free, by offset; neighbours are always joined.
struct Room {
    free: BTreeMap<usize, usize>,
}

impl Room {
    fn new(bytes: usize) -> Self {
        Self { free: BTreeMap::from([(0, bytes)]) }
    }

    /// The smallest stretch that holds `bytes`, the first of equals.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let (&offset, &length) = self.free.iter().filter(|(_, length)| **length >= bytes).min_by_key(|(_, length)| **length)?;
        self.free.remove(&offset);
        if length > bytes {
            self.free.insert(offset + bytes, length - bytes);
        }
        Some(offset)
    }

    /// The end of the last stretch that holds `bytes`.
    fn take_last(&mut self, bytes: usize) -> Option<usize> {
        let (&offset, length) = self.free.iter_mut().rev().find(|(_, length)| **length >= bytes)?;
        *length -= bytes;
        let taken = offset + *length;
        if *length == 0 {
            self.free.remove(&offset);
        }
        Some(taken)
    }

    fn give(&mut self, mut offset: usize, mut bytes: usize) {
        if let Some((&before, &length)) = self.free.range(..offset).next_back()
            && before + length == offset
        {
            self.free.remove(&before);
            (offset, bytes) = (before, length + bytes);
        }
        if let Some(length) = self.free.remove(&(offset + bytes)) {
            bytes += length;
        }
        self.free.insert(offset, bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_given_out_twice_and_all_of_it_comes_back(steps in prop::collection::vec((0..3_u8, 1..300_usize), 1..200)) {
            let mut room = Room::new(4096);
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (what, number) in steps {
                if what < 2 {
                    let fits = room.free.values().any(|length| *length >= number);
                    let taken = if what == 0 { room.take(number) } else { room.take_last(number) };
                    prop_assert_eq!(taken.is_some(), fits);
                    if let Some(offset) = taken {
                        prop_assert!(offset + number <= 4096);
                        prop_assert!(held.iter().all(|(o, n)| offset + number <= *o || o + n <= offset), "given out twice");
                        held.push((offset, number));
                    }
                } else if !held.is_empty() {
                    let (offset, bytes) = held.swap_remove(number % held.len());
                    room.give(offset, bytes);
                }
            }
            held.into_iter().for_each(|(offset, bytes)| room.give(offset, bytes));
            prop_assert_eq!(room.free, BTreeMap::from([(0, 4096)]));
        }
    }

    #[test]
    fn what_stays_long_leaves_the_rest_whole() {
        let mut room = Room::new(1000);
        let short = room.take(100);
        assert_eq!((short, room.take_last(50), room.take_last(50)), (Some(0), Some(950), Some(900)));
        room.give(0, 100);
        assert_eq!(room.take(900), Some(0));
    }
}
