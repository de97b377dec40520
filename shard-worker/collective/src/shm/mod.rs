//! Ranks of one host, threads or processes alike, over a file in shared memory.
//!
//! Every operation is a series of exchanges: each rank writes its part into its slot, says so, and waits until all
//! have. Slots come in pairs used in turn, so one wait an exchange is enough: whoever has begun exchange `s` has
//! finished reading exchange `s - 1`, so what follows may overwrite it.

mod file;
mod futex;
mod mapping;
mod presence;
mod wait;

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use tessera_types::Rank;

use crate::{
    AbortHandle, Collective, CollectiveError, GroupConfig,
    call::Call,
    pieces::{pieces, share},
    tree,
};
use mapping::{Mapping, SLOT_BYTES};
use wait::Waiter;

/// Numbers that one exchange carries.
const SLOT_NUMBERS: usize = SLOT_BYTES / size_of::<f32>();
/// From here on more than two ranks share out the adding.
const SHARED_NUMBERS: usize = 16 * 1024;

/// The shared-memory collective of one rank.
pub(crate) struct Shm {
    mapping: Arc<Mapping>,
    rank: usize,
    size: usize,
    sequence: u32,
    waiter: Waiter,
    abort: AbortHandle,
}

impl Shm {
    /// Joins the group; returns when every rank is there.
    pub(crate) fn join(config: &GroupConfig, abort: AbortHandle) -> Result<Self, CollectiveError> {
        let (rank, size) = (usize::from(config.rank.0), config.size);
        let shared = file::open(config, &abort)?;
        let mapping = Arc::new(Mapping::new(shared.file, rank, size)?);
        let waiter = Waiter::new(config.deadline, abort.clone());
        let mut shm = Self { mapping, rank, size, sequence: 0, waiter, abort };
        let mapping = Arc::downgrade(&shm.mapping);
        shm.abort.on_abort(move || {
            if let Some(mapping) = Weak::upgrade(&mapping) {
                mapping.leave(rank);
            }
        });
        shm.exchange(Call::join(), &[])?;
        Ok(shm)
    }

    /// Puts `part` where the others see it and waits for theirs.
    fn exchange(&mut self, call: Call, part: &[u8]) -> Result<(), CollectiveError> {
        // A rank that aborted must not seem to take part.
        self.abort.check()?;
        self.sequence = self.sequence.wrapping_add(1);
        self.mapping.write(self.rank, self.sequence, call.word(), part);
        self.mapping.arrive(self.rank, self.sequence);
        for other in (0..self.size).filter(|&other| other != self.rank) {
            self.waiter.wait(&self.mapping, other, self.sequence, call.name())?;
            call.agrees(other, self.mapping.header(other, self.sequence))?;
        }
        Ok(())
    }

    /// What a rank put into the exchange just made.
    fn part<T: bytemuck::AnyBitPattern>(&self, rank: usize, len: usize) -> &[T] {
        bytemuck::cast_slice(self.mapping.read(rank, self.sequence, len * size_of::<T>()))
    }

    /// Sums a range of what was just exchanged.
    fn sum(&self, run: &mut [f32], range: Range<usize>) {
        if self.size == 2 {
            // Two numbers have the same sum in either order, and this rank's are at hand.
            let theirs = &self.part::<f32>(1 - self.rank, run.len())[range.clone()];
            return run[range].iter_mut().zip(theirs).for_each(|(own, theirs)| *own += theirs);
        }
        let mut parts: [&[f32]; 8] = [&[]; 8];
        for (rank, part) in parts[..self.size].iter_mut().enumerate() {
            *part = &self.part(rank, run.len())[range.clone()];
        }
        tree::sum(&parts[..self.size], &mut run[range]);
    }

    /// Each rank sums its share, then all hand out what they have.
    fn sum_shared(&mut self, call: Call, run: &mut [f32]) -> Result<(), CollectiveError> {
        let own = share(run.len(), self.rank, self.size);
        self.sum(run, own.clone());
        self.exchange(call, bytemuck::cast_slice(&run[own]))?;
        for other in (0..self.size).filter(|&other| other != self.rank) {
            let theirs = share(run.len(), other, self.size);
            let sums = self.part(other, theirs.len());
            run[theirs].copy_from_slice(sums);
        }
        Ok(())
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
        let call = Call::all_reduce(values);
        for piece in pieces(values.len(), SLOT_NUMBERS) {
            let run = &mut values[piece];
            self.exchange(call, bytemuck::cast_slice(run))?;
            if self.size > 2 && run.len() >= SHARED_NUMBERS {
                self.sum_shared(call, run)?;
            } else {
                self.sum(run, 0..run.len());
            }
        }
        Ok(())
    }

    fn all_gather(&mut self, part: &[f32], whole: &mut [f32]) -> Result<(), CollectiveError> {
        let call = Call::all_gather(self.size, part, whole)?;
        for piece in pieces(part.len(), SLOT_NUMBERS) {
            self.exchange(call, bytemuck::cast_slice(&part[piece.clone()]))?;
            for rank in 0..self.size {
                let at = rank * part.len();
                whole[at + piece.start..at + piece.end].copy_from_slice(self.part(rank, piece.len()));
            }
        }
        Ok(())
    }

    fn broadcast(&mut self, root: Rank, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let root = usize::from(root.0);
        let call = Call::broadcast(self.size, root, bytes.len())?;
        for piece in pieces(bytes.len(), SLOT_BYTES) {
            let own: &[u8] = if root == self.rank { &bytes[piece.clone()] } else { &[] };
            self.exchange(call, own)?;
            if root != self.rank {
                bytes[piece.clone()].copy_from_slice(self.part(root, piece.len()));
            }
        }
        Ok(())
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        // Whoever still waits for this rank would wait in vain.
        self.mapping.leave(self.rank);
    }
}
