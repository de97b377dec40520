//! The registry's replicas, as they come and go.

use std::sync::Arc;

use tessera_registry::{Membership, Registry, ReplicaRecord};

use super::Replicas;

/// Keeps the set of known replicas that of the registry, for ever. While that is away, what is known stays.
pub(crate) async fn follow(replicas: Arc<Replicas>, registry: Registry, model: String) {
    let mut followed = registry.follow();
    loop {
        followed.changed().await;
        if let Some(members) = followed.now() {
            replicas.set(serving(&members, &model));
        }
    }
}

/// Replicas of the model; one that does not say which model it has is taken at its word.
fn serving(members: &Membership, model: &str) -> Vec<ReplicaRecord> {
    members.replicas.values().filter(|record| record.model.is_empty() || record.model == model).cloned().collect()
}
