//! The registry's replicas, as they come and go.

use std::{sync::Arc, time::Duration};

use tessera_registry::{Membership, Registry, RegistryError, ReplicaRecord};
use tokio::time::sleep;

use super::Replicas;

/// Between two attempts to reach the registry. Until then, what is known stays.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps the set of known replicas that of the registry, for ever.
pub(crate) async fn follow(replicas: Arc<Replicas>, registry: Registry, model: String) {
    loop {
        if let Err(error) = follow_once(&replicas, &registry, &model).await {
            tracing::warn!(%error, "the registry cannot be read; serving on with the replicas known");
        }
        sleep(AGAIN).await;
    }
}

/// Until the watch ends.
async fn follow_once(replicas: &Arc<Replicas>, registry: &Registry, model: &str) -> Result<(), RegistryError> {
    let (revision, mut members) = registry.members().await?;
    let mut watch = registry.watch(revision).await?;
    replicas.set(serving(&members, model));
    while let Some(change) = watch.next().await {
        members.apply(change?);
        replicas.set(serving(&members, model));
    }
    Ok(())
}

/// Replicas of the model; one that does not say which model it has is taken at its word.
fn serving(members: &Membership, model: &str) -> Vec<ReplicaRecord> {
    members.replicas.values().filter(|record| record.model.is_empty() || record.model == model).cloned().collect()
}
