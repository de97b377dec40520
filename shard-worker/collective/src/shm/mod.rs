//! Ranks of one host, threads or processes alike, over a file in shared memory.
//!
//! Every operation is a series of exchanges: each rank writes its part into its slot, says so, and waits until all
//! have. Slots come in pairs used in turn, so one wait an exchange is enough: whoever has begun exchange `s` has
//! finished reading exchange `s - 1`, so what follows may overwrite it.

mod futex;
mod mapping;
mod wait;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tessera_types::Rank;

use crate::{AbortHandle, Collective, CollectiveError, GroupConfig, tree};
use mapping::{Mapping, SLOT_BYTES};
use wait::Waiter;

/// Numbers that one exchange carries.
const SLOT_NUMBERS: usize = SLOT_BYTES / size_of::<f32>();

/// What ranks do together; part of each exchange's header, so that a disagreement is noticed.
#[derive(Clone, Copy)]
enum Operation {
    Join = 1,
    AllReduce = 2,
    AllGather = 3,
    Broadcast = 4,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::AllReduce => "all-reduce",
            Self::AllGather => "all-gather",
            Self::Broadcast => "broadcast",
        }
    }
}

/// The shared-memory collective of one rank.
pub(crate) struct Shm {
    mapping: Arc<Mapping>,
    rank: usize,
    size: usize,
    sequence: u32,
    waiter: Waiter,
}

impl Shm {
    /// Joins the group; returns when every rank is there.
    pub(crate) fn join(config: &GroupConfig) -> Result<Self, CollectiveError> {
        let (rank, size) = (usize::from(config.rank.0), config.size);
        let mapping = Arc::new(Mapping::open(config)?);
        let mut shm = Self { mapping, rank, size, sequence: 0, waiter: Waiter::new(config.deadline) };
        shm.exchange(Operation::Join, 0, &[])?;
        if rank == 0 {
            shm.mapping.unlink();
        }
        Ok(shm)
    }

    /// Puts `part` where the others see it and waits for theirs. `total` is the whole operation's length, checked against theirs.
    fn exchange(&mut self, operation: Operation, total: usize, part: &[u8]) -> Result<(), CollectiveError> {
        // A rank that aborted must not seem to take part.
        if self.mapping.has_left(self.rank) {
            return Err(CollectiveError::Aborted);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let header = ((operation as u64) << 56) | total as u64;
        self.mapping.write(self.rank, self.sequence, header, part);
        self.mapping.arrive(self.rank, self.sequence);
        for other in (0..self.size).filter(|&other| other != self.rank) {
            self.waiter.wait(&self.mapping, self.rank, other, self.sequence, operation.name())?;
            let theirs = self.mapping.header(other, self.sequence);
            if theirs != header {
                let said = |header: u64| format!("operation {} over {} bytes", header >> 56, header & ((1 << 56) - 1));
                return Err(CollectiveError::Mismatch(format!("rank {other} is at {}, this rank at {}", said(theirs), said(header))));
            }
        }
        Ok(())
    }

    /// What a rank put into the exchange just made.
    fn part<T: bytemuck::AnyBitPattern>(&self, rank: usize, len: usize) -> &[T] {
        bytemuck::cast_slice(self.mapping.read(rank, self.sequence, len * size_of::<T>()))
    }
}

impl Collective for Shm {
    fn rank(&self) -> Rank {
        Rank(self.rank as u16)
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let total = size_of_val(values);
        for run in values.chunks_mut(SLOT_NUMBERS) {
            self.exchange(Operation::AllReduce, total, bytemuck::cast_slice(run))?;
            let mut parts: [&[f32]; 8] = [&[]; 8];
            for (rank, part) in parts[..self.size].iter_mut().enumerate() {
                *part = self.part(rank, run.len());
            }
            tree::sum(&parts[..self.size], run);
        }
        Ok(())
    }

    fn all_gather(&mut self, part: &[f32], whole: &mut [f32]) -> Result<(), CollectiveError> {
        if part.len() * self.size != whole.len() {
            let message = format!("{} parts of {} numbers do not fill {}", self.size, part.len(), whole.len());
            return Err(CollectiveError::Mismatch(message));
        }
        for (index, run) in part.chunks(SLOT_NUMBERS).enumerate() {
            self.exchange(Operation::AllGather, size_of_val(part), bytemuck::cast_slice(run))?;
            for rank in 0..self.size {
                let at = rank * part.len() + index * SLOT_NUMBERS;
                whole[at..at + run.len()].copy_from_slice(self.part(rank, run.len()));
            }
        }
        Ok(())
    }

    fn broadcast(&mut self, root: Rank, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let root = usize::from(root.0);
        if root >= self.size {
            return Err(CollectiveError::Mismatch(format!("no rank {root} in a group of {}", self.size)));
        }
        let total = bytes.len();
        for run in bytes.chunks_mut(SLOT_BYTES) {
            let own = if root == self.rank { &*run } else { &[] };
            self.exchange(Operation::Broadcast, total, own)?;
            if root != self.rank {
                run.copy_from_slice(self.part(root, run.len()));
            }
        }
        Ok(())
    }

    fn abort_handle(&self) -> AbortHandle {
        let (mapping, rank) = (self.mapping.clone(), self.rank);
        AbortHandle::new(move || mapping.leave(rank))
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        // Whoever still waits for this rank would wait in vain.
        self.mapping.leave(self.rank);
    }
}
