//! Which group the worker obeys: only that of the newest epoch, and only until it is released.

use parking_lot::Mutex;
use tessera_collective::AbortHandle;
use tessera_types::Epoch;

/// The newest epoch and the collective that must end before another is formed.
#[derive(Debug, Default)]
pub(crate) struct Fence(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    newest: Epoch,
    running: Option<AbortHandle>,
}

impl Fence {
    /// Enters an epoch and ends the group of the one before. Fails with the newest when `epoch` is not above it.
    pub(crate) fn enter(&self, epoch: Epoch) -> Result<(), Epoch> {
        let mut inner = self.0.lock();
        if epoch <= inner.newest {
            return Err(inner.newest);
        }
        inner.newest = epoch;
        inner.end();
        Ok(())
    }

    /// Keeps the handle of a group's collective; ends it at once when its epoch is over already.
    pub(crate) fn hold(&self, epoch: Epoch, handle: AbortHandle) {
        let mut inner = self.0.lock();
        if epoch == inner.newest { inner.running = Some(handle) } else { handle.abort() }
    }

    /// Ends the group of `epoch`, if that is the one that runs.
    pub(crate) fn release(&self, epoch: Epoch) {
        let mut inner = self.0.lock();
        if epoch == inner.newest {
            inner.end();
        }
    }

    pub(crate) fn newest(&self) -> Epoch {
        self.0.lock().newest
    }
}

impl Inner {
    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

#[cfg(test)]
mod fence_tests {
    use super::*;

    #[test]
    fn an_epoch_is_entered_once_and_never_an_older_one() {
        let fence = Fence::default();
        assert_eq!(fence.enter(Epoch(5)), Ok(()));
        assert_eq!(fence.enter(Epoch(5)), Err(Epoch(5)));
        assert_eq!(fence.enter(Epoch(4)), Err(Epoch(5)));
        assert_eq!(fence.enter(Epoch(6)), Ok(()));
    }
}
