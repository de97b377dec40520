//! A replica's hold on its workers: it lasts for as long as nobody else has one of them.

use std::time::Duration;

use tessera_registry::{Kept, Registry, RegistryError};
use tessera_types::Epoch;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bounded::bounded;

/// Between attempts to claim again.
const AGAIN: Duration = Duration::from_millis(300);

/// A claim, kept by a task until it is released or dropped.
///
/// When its lease ends all the same, as after minutes without the registry, the workers are claimed again under a new
/// one, and the group runs on: were another coordinator to have claimed them meanwhile, its epoch would be above this
/// group's, and the workers themselves would obey it.
pub(super) struct Claim {
    lost: watch::Receiver<bool>,
    release: CancellationToken,
    task: JoinHandle<()>,
}

/// What is claimed, for whom.
pub(super) struct Holder {
    pub(super) registry: Registry,
    pub(super) replica: String,
    pub(super) workers: Vec<String>,
    pub(super) ttl: Duration,
    pub(super) call: Duration,
}

impl Claim {
    /// Claims free workers in one transaction; its revision is the epoch.
    pub(super) async fn take(holder: Holder) -> Result<(Epoch, Self), RegistryError> {
        let lease = bounded(holder.call, holder.registry.lease(holder.ttl)).await?;
        let claimed = bounded(holder.call, holder.registry.claim(lease.id(), &holder.replica, &holder.workers)).await;
        let epoch = match claimed {
            Ok(epoch) => epoch,
            Err(error) => {
                // Whatever was claimed after all goes with the lease.
                let _ = timeout(holder.call, lease.revoke()).await;
                return Err(error);
            }
        };
        let (tell, lost) = watch::channel(false);
        let release = CancellationToken::new();
        let task = tokio::spawn(holder.keep(lease, tell, release.clone()));
        Ok((epoch, Self { lost, release, task }))
    }

    /// Waits until somebody else has one of the workers. While the registry is away nobody can.
    pub(super) async fn lost(&self) {
        let mut lost = self.lost.clone();
        // The sender goes only with the task, and that ends by itself only when it has told.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Gives the workers back; where the registry does not answer, they stay claimed until the lease ends.
    pub(super) async fn release(mut self) {
        self.release.cancel();
        // The task bounds what it does.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Holder {
    async fn keep(self, mut lease: Kept, lost: watch::Sender<bool>, release: CancellationToken) {
        loop {
            tokio::select! {
                () = release.cancelled() => {
                    if !matches!(timeout(self.call, lease.revoke()).await, Ok(Ok(()))) {
                        warn!("the claim on the workers stays until its lease ends");
                    }
                    return;
                }
                () = lease.lost() => {}
            }
            match release.run_until_cancelled(self.claim_again()).await {
                Some(Some(renewed)) => lease = renewed,
                Some(None) => {
                    lost.send_replace(true);
                    return;
                }
                None => return,
            }
        }
    }

    /// `None` when somebody else has one of the workers.
    async fn claim_again(&self) -> Option<Kept> {
        loop {
            match self.attempt().await {
                Ok(lease) => {
                    info!(workers = self.workers.join(", "), "the claim's lease had ended; it was taken again");
                    return Some(lease);
                }
                Err(RegistryError::Taken) if self.is_taken_by_another().await => return None,
                Err(error) => warn!(%error, "the workers cannot be claimed again yet"),
            }
            sleep(AGAIN).await;
        }
    }

    async fn attempt(&self) -> Result<Kept, RegistryError> {
        let lease = bounded(self.call, self.registry.lease(self.ttl)).await?;
        bounded(self.call, self.registry.reclaim(lease.id(), &self.replica, &self.workers)).await?;
        Ok(lease)
    }

    /// An earlier attempt whose answer never came may have claimed them for this very replica.
    async fn is_taken_by_another(&self) -> bool {
        match bounded(self.call, self.registry.members()).await {
            Ok((_, members)) => {
                let holders = self.workers.iter().filter_map(|worker| members.claims.get(worker));
                holders.into_iter().any(|claim| claim.replica != self.replica)
            }
            Err(_) => false,
        }
    }
}
