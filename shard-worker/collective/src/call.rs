//! What ranks do together, as they tell each other, so that a disagreement is noticed and not summed.

use std::fmt;

use crate::CollectiveError;

/// An operation with what all ranks must agree on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    operation: Operation,
    root: u8,
    /// Of the whole operation, however many pieces it goes in.
    bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Join = 1,
    AllReduce = 2,
    AllGather = 3,
    Broadcast = 4,
}

const ROOT_SHIFT: u32 = 48;
const OPERATION_SHIFT: u32 = 56;

impl Call {
    pub(crate) fn join() -> Self {
        Self { operation: Operation::Join, root: 0, bytes: 0 }
    }

    pub(crate) fn all_reduce(values: &[f32]) -> Self {
        Self { operation: Operation::AllReduce, root: 0, bytes: size_of_val(values) }
    }

    /// Fails when the parts of `size` ranks do not fill the whole.
    pub(crate) fn all_gather(size: usize, part: &[f32], whole: &[f32]) -> Result<Self, CollectiveError> {
        if part.len() * size != whole.len() {
            let problem = format!("{size} parts of {} numbers do not fill {}", part.len(), whole.len());
            return Err(CollectiveError::Mismatch(problem));
        }
        Ok(Self { operation: Operation::AllGather, root: 0, bytes: size_of_val(part) })
    }

    /// Fails when there is no such root.
    pub(crate) fn broadcast(size: usize, root: usize, bytes: usize) -> Result<Self, CollectiveError> {
        if root >= size {
            return Err(CollectiveError::Mismatch(format!("no rank {root} in a group of {size}")));
        }
        Ok(Self { operation: Operation::Broadcast, root: root as u8, bytes })
    }

    pub(crate) fn name(self) -> &'static str {
        name(self.operation as u8)
    }

    /// As one number, to be compared with another rank's.
    pub(crate) fn word(self) -> u64 {
        (self.operation as u64) << OPERATION_SHIFT | u64::from(self.root) << ROOT_SHIFT | self.bytes as u64
    }

    /// Fails when `rank` said another word.
    pub(crate) fn agrees(self, rank: usize, word: u64) -> Result<(), CollectiveError> {
        if word == self.word() {
            return Ok(());
        }
        let problem = format!("rank {rank} is at {}, this rank at {}", Said(word), Said(self.word()));
        Err(CollectiveError::Mismatch(problem))
    }
}

/// A word, to be read.
struct Said(u64);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(word) = *self;
        let bytes = word & ((1 << ROOT_SHIFT) - 1);
        write!(f, "{} of {bytes} bytes from root {}", name((word >> OPERATION_SHIFT) as u8), word >> ROOT_SHIFT & 0xff)
    }
}

fn name(operation: u8) -> &'static str {
    match operation {
        1 => "join",
        2 => "all-reduce",
        3 => "all-gather",
        4 => "broadcast",
        _ => "nothing known",
    }
}
