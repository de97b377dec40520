//! A lease that keeps itself alive.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::warn;

use crate::{LeaseId, RegistryError, Store};

/// A lease kept alive by a task until it is dropped; its keys then go with its end, or at once by [`Kept::revoke`].
pub struct Kept {
    id: LeaseId,
    store: Arc<dyn Store>,
    task: JoinHandle<()>,
    lost: watch::Receiver<bool>,
}

impl Kept {
    pub(crate) async fn grant(store: Arc<dyn Store>, ttl: Duration) -> Result<Self, RegistryError> {
        let id = store.grant(ttl).await?;
        let (tell, lost) = watch::channel(false);
        let task = tokio::spawn(keep(store.clone(), id, ttl, tell));
        Ok(Self { id, store, task, lost })
    }

    /// The lease.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Waits until the lease has ended all the same: its holder must stop doing what it allowed. A store that cannot be
    /// reached ends nothing.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // The sender goes only with the task, which runs as long as `self`.
        let _ = lost.wait_for(|lost| *lost).await;
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

async fn keep(store: Arc<dyn Store>, id: LeaseId, ttl: Duration, lost: watch::Sender<bool>) {
    let third = (ttl / 3).max(Duration::from_millis(1));
    let mut tick = interval(third);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match timeout(third, store.keep_alive(id)).await {
            Ok(Ok(())) => {}
            Ok(Err(RegistryError::LeaseEnded(_))) => {
                lost.send_replace(true);
                return;
            }
            Ok(Err(error)) => warn!(%error, "the lease could not be renewed"),
            Err(_) => warn!("the lease could not be renewed in time"),
        }
    }
}
