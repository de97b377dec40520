//! The worker's record in the registry: put under a lease, kept up to date, taken away at the end.

use std::time::Duration;

use tessera_registry::{Kept, Registry, RegistryError, WorkerRecord, WorkerState};
use tessera_types::Epoch;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::rank::Inventory;

/// Between attempts to register.
const RETRY: Duration = Duration::from_millis(500);
/// One call to the registry.
const CALL: Duration = Duration::from_secs(2);

/// What the record follows.
pub(crate) struct Life {
    pub(crate) inventory: watch::Receiver<Inventory>,
    /// The epoch whose coordinator was the last to go without a word.
    pub(crate) left: watch::Receiver<Epoch>,
    /// The worker takes no new group.
    pub(crate) draining: CancellationToken,
    /// The worker serves no more.
    pub(crate) ended: CancellationToken,
}

/// Keeps the record in the registry until the worker has ended; registers anew when the lease was lost.
pub(crate) async fn announce(registry: Registry, mut record: WorkerRecord, ttl: Duration, mut life: Life) {
    while !life.ended.is_cancelled() {
        life.bring_up_to_date(&mut record);
        match bounded(register(&registry, &record, ttl)).await {
            Ok(lease) => {
                info!(id = record.id, address = record.address, "registered");
                life.keep(&registry, &mut record, lease).await;
            }
            Err(error) => {
                warn!(%error, "cannot register");
                tokio::select! { () = sleep(RETRY) => {}, () = life.ended.cancelled() => {} }
            }
        }
    }
}

async fn register(registry: &Registry, record: &WorkerRecord, ttl: Duration) -> Result<Kept, RegistryError> {
    let lease = registry.lease(ttl).await?;
    registry.put_worker(lease.id(), record).await?;
    Ok(lease)
}

impl Life {
    /// Whether the record has changed.
    fn bring_up_to_date(&mut self, record: &mut WorkerRecord) -> bool {
        let before = record.clone();
        record.fingerprint = self.inventory.borrow_and_update().fingerprint.clone();
        record.state = if self.draining.is_cancelled() { WorkerState::Draining } else { WorkerState::Ready };
        *record != before
    }

    /// Ends the claim of a coordinator that is gone: others need not wait for the end of its lease.
    async fn give_back(&mut self, registry: &Registry, id: &str) {
        let epoch = *self.left.borrow_and_update();
        if let Err(error) = bounded(registry.release(epoch, &[id.to_owned()])).await {
            warn!(%error, "the claim stays until its lease ends");
        }
    }

    /// Until the lease is lost or the worker ends.
    async fn keep(&mut self, registry: &Registry, record: &mut WorkerRecord, lease: Kept) {
        let mut out_of_date = false;
        loop {
            let draining = record.state == WorkerState::Draining;
            tokio::select! {
                () = self.ended.cancelled() => {
                    if let Err(error) = bounded(lease.revoke()).await {
                        warn!(%error, "the record stays until its lease ends");
                    }
                    return;
                }
                () = lease.lost() => return,
                () = self.draining.cancelled(), if !draining => {}
                Ok(()) = self.left.changed() => self.give_back(registry, &record.id).await,
                Ok(()) = self.inventory.changed() => {}
                () = sleep(RETRY), if out_of_date => {}
            }
            if self.bring_up_to_date(record) || out_of_date {
                let put = bounded(registry.put_worker(lease.id(), record)).await;
                out_of_date = put.inspect_err(|error| warn!(%error, "the record is out of date")).is_err();
            }
        }
    }
}

async fn bounded<T>(call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
    timeout(CALL, call).await.unwrap_or_else(|_| Err(RegistryError::Unavailable(format!("no answer within {CALL:?}"))))
}
