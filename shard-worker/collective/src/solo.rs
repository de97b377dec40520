//! A group of one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tessera_types::Rank;

use crate::{AbortHandle, Collective, CollectiveError};

/// The collective of a rank that has no others: everything is done already.
#[derive(Debug, Default)]
pub struct Solo {
    aborted: Arc<AtomicBool>,
}

impl Solo {
    fn check(&self, part: usize, whole: usize) -> Result<(), CollectiveError> {
        if self.aborted.load(Ordering::Relaxed) {
            return Err(CollectiveError::Aborted);
        }
        if part == whole {
            return Ok(());
        }
        Err(CollectiveError::Mismatch(format!("a part of {part} numbers does not fill {whole}")))
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
        self.check(0, 0)
    }

    fn all_gather(&mut self, part: &[f32], whole: &mut [f32]) -> Result<(), CollectiveError> {
        self.check(part.len(), whole.len())?;
        whole.copy_from_slice(part);
        Ok(())
    }

    fn broadcast(&mut self, _root: Rank, _bytes: &mut [u8]) -> Result<(), CollectiveError> {
        self.check(0, 0)
    }

    fn abort_handle(&self) -> AbortHandle {
        let aborted = self.aborted.clone();
        AbortHandle::new(move || aborted.store(true, Ordering::Relaxed))
    }
}
