//! Workers, replicas and claims over a store.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::Serialize;
use tessera_types::Epoch;
use tokio::time::Instant;

use crate::{
    Change, ClaimRecord, Compare, Kept, LeaseId, Membership, MembershipWatch, RegistryError, ReplicaRecord, Revision, Store,
    WorkerRecord, Write,
    bounded::{Bounded, Silence},
    keys::{CLAIMS, REPLICAS, ROOT, WORKERS},
    membership::read,
};

/// How long a call to the store may take.
const CALL: Duration = Duration::from_secs(5);
/// A store that has answered nothing for so long is away: longer than a cluster of etcd's takes to elect a leader.
const AWAY: Duration = Duration::from_secs(3);

/// The registry; clones share one store. Every call ends within five seconds, with [`RegistryError::Unavailable`] where
/// the store does not answer.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
    silence: Silence,
}

impl Registry {
    /// A registry over a store.
    pub fn new(store: impl Store + 'static) -> Self {
        let store = Bounded::new(store, CALL);
        Self { silence: store.silence(), store: Arc::new(store) }
    }

    /// Since when the store has answered nothing, where that is so long that it must be away. Only who asks notices: a
    /// lease that is kept asks three times in its life.
    pub fn away_since(&self) -> Option<Instant> {
        self.silence.since().filter(|since| since.elapsed() > AWAY)
    }

    /// A lease that is kept alive until it is dropped; `ttl` is how soon a death is noticed.
    pub async fn lease(&self, ttl: Duration) -> Result<Kept, RegistryError> {
        Kept::grant(self.store.clone(), ttl).await
    }

    /// The store below, for leases kept by hand.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Registers a worker, or changes its record.
    pub async fn put_worker(&self, lease: LeaseId, record: &WorkerRecord) -> Result<Revision, RegistryError> {
        self.put(format!("{WORKERS}{}", record.id), record, lease).await
    }

    /// Registers a replica, or changes its record.
    pub async fn put_replica(&self, lease: LeaseId, record: &ReplicaRecord) -> Result<Revision, RegistryError> {
        self.put(format!("{REPLICAS}{}", record.id), record, lease).await
    }

    /// Takes a replica's record away, as when it stops in good order.
    pub async fn remove_replica(&self, id: &str) -> Result<(), RegistryError> {
        self.store.commit(vec![], vec![Write::Delete(format!("{REPLICAS}{id}"))]).await.map(drop)
    }

    /// Claims all of the workers for a replica in one transaction, whose revision is the group's epoch.
    ///
    /// # Errors
    /// [`RegistryError::Taken`] when one of them is gone or held, [`RegistryError::Malformed`] when there is none or one
    /// is named twice; none is claimed then.
    pub async fn claim(&self, lease: LeaseId, replica: &str, workers: &[String]) -> Result<Epoch, RegistryError> {
        let present = workers.iter().map(|id| Compare::Exists(format!("{WORKERS}{id}")));
        self.hold(lease, replica, workers, present.collect()).await
    }

    /// Claims workers again for the group that runs on them, when the lease of its claim has ended: nobody else may have
    /// claimed one of them since. Whether they are registered does not matter; the group knows that they live.
    ///
    /// # Errors
    /// As [`Registry::claim`].
    pub async fn reclaim(&self, lease: LeaseId, replica: &str, workers: &[String]) -> Result<Epoch, RegistryError> {
        self.hold(lease, replica, workers, Vec::new()).await
    }

    async fn hold(
        &self,
        lease: LeaseId,
        replica: &str,
        workers: &[String],
        mut conditions: Vec<Compare>,
    ) -> Result<Epoch, RegistryError> {
        // Without a write there is no revision of its own, and so no epoch.
        if workers.is_empty() || workers.iter().collect::<BTreeSet<_>>().len() < workers.len() {
            return Err(RegistryError::Malformed);
        }
        let record = ClaimRecord { replica: replica.to_owned() };
        conditions.extend(workers.iter().map(|id| Compare::Absent(format!("{CLAIMS}{id}"))));
        let writes = workers.iter().map(|id| put(format!("{CLAIMS}{id}"), &record, lease)).collect::<Result<_, _>>()?;
        let revision = self.store.commit(conditions, writes).await?;
        revision.map(|revision| Epoch(revision.0)).ok_or(RegistryError::Taken)
    }

    /// Lets workers go that were claimed together under `epoch`. Workers claimed anew since are left alone.
    pub async fn release(&self, epoch: Epoch, workers: &[String]) -> Result<(), RegistryError> {
        for id in workers {
            let key = format!("{CLAIMS}{id}");
            let own = Compare::Created(key.clone(), Revision(epoch.0));
            self.store.commit(vec![own], vec![Write::Delete(key)]).await?;
        }
        Ok(())
    }

    /// Everyone who is there, and the revision to watch from.
    pub async fn members(&self) -> Result<(Revision, Membership), RegistryError> {
        let (revision, entries) = self.store.list(ROOT).await?;
        let mut membership = Membership::default();
        entries.into_iter().filter_map(|entry| read(Change::Put(entry))).for_each(|change| membership.apply(change));
        Ok((revision, membership))
    }

    /// Every change after a revision.
    pub async fn watch(&self, after: Revision) -> Result<MembershipWatch, RegistryError> {
        Ok(MembershipWatch::new(self.store.watch(ROOT, after).await?))
    }

    async fn put(&self, key: String, record: &impl Serialize, lease: LeaseId) -> Result<Revision, RegistryError> {
        let revision = self.store.commit(vec![], vec![put(key, record, lease)?]).await?;
        // A transaction without conditions always goes through.
        revision.ok_or(RegistryError::Taken)
    }
}

fn put(key: String, record: &impl Serialize, lease: LeaseId) -> Result<Write, RegistryError> {
    match serde_json::to_string(record) {
        Ok(value) => Ok(Write::Put { key, value, lease }),
        Err(error) => Err(RegistryError::Record { key, problem: error.to_string() }),
    }
}
