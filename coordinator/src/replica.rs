//! The replica's entry in the registry, kept up to date.

use std::time::Duration;

use tessera_registry::{Kept, Registry, RegistryError, ReplicaRecord};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{bounded::bounded, config::Config, state::ReplicaState};

/// Between two updates, and before another attempt.
const PACE: Duration = Duration::from_millis(500);

/// Announces a replica for as long as it lives.
pub(crate) struct Announcer {
    pub(crate) registry: Registry,
    pub(crate) record: ReplicaRecord,
    pub(crate) lease: Duration,
    pub(crate) call: Duration,
}

impl Announcer {
    pub(crate) fn new(config: &Config, registry: Registry, address: String) -> Self {
        let model = config.model.clone();
        let record = ReplicaRecord { id: config.replica.clone(), address, tp: config.tp, model, ..Default::default() };
        Self { registry, record, lease: config.timeouts.lease, call: config.timeouts.call }
    }

    /// Until `stop`; then takes the entry away.
    pub(crate) async fn run(mut self, mut state: watch::Receiver<ReplicaState>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let announced = stop.run_until_cancelled(self.announce(&mut state)).await;
            if let Some(Err(error)) = announced {
                warn!(%error, "the replica cannot be announced; trying again");
                stop.run_until_cancelled(sleep(PACE)).await;
            }
        }
        if let Ok(Err(error)) = timeout(self.call, self.registry.remove_replica(&self.record.id)).await {
            warn!(%error, "the replica's entry stays until its lease ends");
        }
    }

    /// Until the lease is lost.
    async fn announce(&mut self, state: &mut watch::Receiver<ReplicaState>) -> Result<(), RegistryError> {
        let lease = bounded(self.call, self.registry.lease(self.lease)).await?;
        tokio::select! {
            () = lease.lost() => Ok(()),
            ended = self.update(&lease, state) => ended,
        }
    }

    async fn update(&mut self, lease: &Kept, state: &mut watch::Receiver<ReplicaState>) -> Result<(), RegistryError> {
        loop {
            let record = described(&self.record, &state.borrow_and_update());
            bounded(self.call, self.registry.put_replica(lease.id(), &record)).await?;
            self.record = record;
            sleep(PACE).await;
            while described(&self.record, &state.borrow_and_update()) == self.record {
                if state.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }
}

fn described(record: &ReplicaRecord, state: &ReplicaState) -> ReplicaRecord {
    ReplicaRecord { epoch: state.epoch.0, ready: state.condition.ready, draining: state.condition.draining, ..record.clone() }
}
