//! A group of one.

use tessera_types::Rank;

use crate::{AbortHandle, Collective, CollectiveError, call::Call};

/// The collective of a rank that has no others: everything is done already.
#[derive(Debug, Default)]
pub struct Solo {
    abort: AbortHandle,
}

impl Solo {
    pub(crate) fn new(abort: AbortHandle) -> Self {
        Self { abort }
    }
}

impl Collective for Solo {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce_sum(&mut self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        self.abort.check()
    }

    fn all_gather(&mut self, part: &[f32], whole: &mut [f32]) -> Result<(), CollectiveError> {
        self.abort.check()?;
        Call::all_gather(1, part, whole)?;
        whole.copy_from_slice(part);
        Ok(())
    }

    fn broadcast(&mut self, root: Rank, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        self.abort.check()?;
        Call::broadcast(1, root.0.into(), bytes.len()).map(drop)
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }
}
