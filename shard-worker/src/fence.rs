//! Which group the worker obeys: only that of the newest epoch, and only until it is left.

use std::time::Duration;

use parking_lot::Mutex;
use tessera_collective::AbortHandle;
use tessera_types::{Epoch, Rank};
use tokio::time::sleep;

/// How often a worker that leaves looks whether it may.
const LOOK: Duration = Duration::from_millis(20);

/// The newest epoch, and this worker's place in its group.
#[derive(Default)]
pub(crate) struct Fence(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    newest: Epoch,
    place: Option<Place>,
    /// Told whenever a group is left.
    told: Option<Box<dyn Fn() + Send>>,
}

#[derive(Debug)]
struct Place {
    rank: Rank,
    abort: AbortHandle,
}

impl Fence {
    /// Enters an epoch as `rank` and ends the group of the one before. The handle is what ends this group.
    ///
    /// # Errors
    /// The newest epoch, when `epoch` is not above it.
    pub(crate) fn enter(&self, epoch: Epoch, rank: Rank) -> Result<AbortHandle, Epoch> {
        let mut inner = self.0.lock();
        if epoch <= inner.newest {
            return Err(inner.newest);
        }
        inner.end();
        inner.newest = epoch;
        let abort = AbortHandle::new();
        inner.place = Some(Place { rank, abort: abort.clone() });
        Ok(abort)
    }

    /// Tells of every group that is left from now on; `tell` must not block.
    pub(crate) fn tell(&self, tell: impl Fn() + Send + 'static) {
        self.0.lock().told = Some(Box::new(tell));
    }

    /// Whether a group of `epoch` could be entered.
    ///
    /// # Errors
    /// The newest epoch, when `epoch` is not above it.
    pub(crate) fn admits(&self, epoch: Epoch) -> Result<(), Epoch> {
        let newest = self.0.lock().newest;
        if epoch > newest { Ok(()) } else { Err(newest) }
    }

    /// Leaves the group of `epoch`, if that is the one the worker is in: a step in progress ends with an error.
    pub(crate) fn leave(&self, epoch: Epoch) {
        let mut inner = self.0.lock();
        if epoch == inner.newest {
            inner.end();
        }
    }

    /// Whether a plan of this epoch may run.
    pub(crate) fn obeys(&self, epoch: Epoch) -> bool {
        let inner = self.0.lock();
        epoch == inner.newest && inner.place.is_some()
    }

    /// Waits until the worker is in no group.
    pub(crate) async fn free(&self) {
        while self.now().1.is_some() {
            sleep(LOOK).await;
        }
    }

    /// The newest epoch seen, and the rank in its group while the worker is in it.
    pub(crate) fn now(&self) -> (Epoch, Option<Rank>) {
        let inner = self.0.lock();
        (inner.newest, inner.place.as_ref().map(|place| place.rank))
    }
}

impl Inner {
    fn end(&mut self) {
        if let Some(place) = self.place.take() {
            place.abort.abort();
            self.told.iter().for_each(|tell| tell());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_entered_once_and_never_an_older_one() {
        let fence = Fence::default();
        assert!(fence.enter(Epoch(5), Rank(0)).is_ok());
        assert_eq!(fence.enter(Epoch(5), Rank(0)).err(), Some(Epoch(5)));
        assert_eq!(fence.enter(Epoch(4), Rank(0)).err(), Some(Epoch(5)));
        assert!(fence.enter(Epoch(6), Rank(1)).is_ok());
        assert_eq!(fence.now(), (Epoch(6), Some(Rank(1))));
        assert_eq!([5, 6, 7].map(|epoch| fence.admits(Epoch(epoch))), [Err(Epoch(6)), Err(Epoch(6)), Ok(())]);
        assert!(fence.obeys(Epoch(6)) && !fence.obeys(Epoch(5)));
    }

    #[test]
    fn a_new_epoch_ends_the_group_before() {
        let fence = Fence::default();
        let first = fence.enter(Epoch(1), Rank(0)).unwrap();
        let second = fence.enter(Epoch(2), Rank(0)).unwrap();
        assert!(first.is_aborted() && !second.is_aborted());
    }

    #[test]
    fn only_the_group_that_is_named_is_left() {
        let fence = Fence::default();
        let abort = fence.enter(Epoch(2), Rank(0)).unwrap();
        fence.leave(Epoch(1));
        assert!(fence.obeys(Epoch(2)) && !abort.is_aborted());
        fence.leave(Epoch(2));
        assert!(!fence.obeys(Epoch(2)) && abort.is_aborted());
        assert_eq!(fence.now(), (Epoch(2), None));
    }
}
