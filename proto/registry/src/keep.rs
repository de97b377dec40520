//! A lease that keeps itself alive, and what its holder knows of it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{LeaseId, RegistryError, Store};

/// What the holder of a lease knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It has not ended.
    Live,
    /// It may have ended: it was last renewed longer ago than it lives without.
    Doubtful,
    /// It has ended, for good.
    Ended,
}

/// What the keeping task has learnt.
#[derive(Clone, Copy)]
struct Known {
    /// The lease cannot have ended before. Counted from when the last renewal was *sent*: the store counts from when it
    /// arrived, and only this process's clock is asked.
    until: Instant,
    ended: bool,
}

impl Known {
    fn state(self, now: Instant) -> LeaseState {
        match self {
            Self { ended: true, .. } => LeaseState::Ended,
            Self { until, .. } if now < until => LeaseState::Live,
            _ => LeaseState::Doubtful,
        }
    }
}

/// A lease kept alive by a task until it is dropped; its keys then go with its end, or at once by [`Kept::revoke`].
///
/// The task goes on trying while the store is away. A store that is away ends no leases, so that many are live again
/// once it is back; only [`LeaseState::Ended`] says that one is not. Its holder then registers anew, under a new lease.
pub struct Kept {
    id: LeaseId,
    store: Arc<dyn Store>,
    task: JoinHandle<()>,
    known: watch::Receiver<Known>,
}

impl Kept {
    pub(crate) async fn grant(store: Arc<dyn Store>, ttl: Duration) -> Result<Self, RegistryError> {
        let until = Instant::now() + ttl;
        let id = store.grant(ttl).await?;
        let (tell, known) = watch::channel(Known { until, ended: false });
        let task = tokio::spawn(keep(store.clone(), id, ttl, tell));
        Ok(Self { id, store, task, known })
    }

    /// The lease.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// What is known now. True also right after this process was stopped for a while.
    pub fn state(&self) -> LeaseState {
        self.known.borrow().state(Instant::now())
    }

    /// Until when the lease is known to be live, by this process's clock.
    pub fn live_until(&self) -> Instant {
        self.known.borrow().until
    }

    /// Waits until the lease has ended for certain. A store that cannot be reached ends nothing.
    pub async fn lost(&self) {
        let mut known = self.known.clone();
        // The sender goes only with the task, which runs as long as `self`.
        let _ = known.wait_for(|known| known.ended).await;
    }

    /// Waits until the lease may have ended, or has: where another may hold by then what it allowed, its holder must
    /// have stopped.
    pub async fn doubtful(&self) {
        let mut known = self.known.clone();
        loop {
            let now = *known.borrow_and_update();
            if now.state(Instant::now()) != LeaseState::Live {
                return;
            }
            tokio::select! {
                () = sleep_until(now.until) => {}
                // The sender goes only with the task, which runs as long as `self`.
                _ = known.changed() => {}
            }
        }
    }

    /// Waits while the lease is doubtful; says whether it is live or has ended.
    pub async fn settled(&self) -> LeaseState {
        let mut known = self.known.clone();
        let settled = known.wait_for(|known| known.state(Instant::now()) != LeaseState::Doubtful).await;
        settled.map_or(LeaseState::Ended, |known| if known.ended { LeaseState::Ended } else { LeaseState::Live })
    }

    /// Ends the lease now and takes its keys away.
    pub async fn revoke(self) -> Result<(), RegistryError> {
        self.store.revoke(self.id).await
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(store: Arc<dyn Store>, id: LeaseId, ttl: Duration, tell: watch::Sender<Known>) {
    let third = (ttl / 3).max(Duration::from_millis(1));
    let mut tick = interval(third);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tick.tick().await;
        let sent = Instant::now();
        let renewed = timeout(third, store.keep_alive(id)).await;
        match renewed.unwrap_or_else(|_| Err(RegistryError::Unavailable(format!("no answer within {third:?}")))) {
            Ok(()) => {
                tell.send_modify(|known| known.until = sent + ttl);
                if failing {
                    info!(?id, "the lease is renewed again");
                }
                failing = false;
            }
            Err(RegistryError::LeaseEnded(_)) => {
                tell.send_modify(|known| known.ended = true);
                return;
            }
            Err(error) if !failing => {
                warn!(?id, %error, "the lease cannot be renewed; trying on");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
