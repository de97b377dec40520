//! Workers, replicas and claims over a store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tessera_types::Epoch;

use crate::{
    Change, ClaimRecord, Compare, Entry, Kept, LeaseId, RegistryError, ReplicaRecord, Revision, Store, Watch, WorkerRecord, Write,
};

const ROOT: &str = "/tessera/v1/";
const WORKERS: &str = "/tessera/v1/workers/";
const CLAIMS: &str = "/tessera/v1/claims/";
const REPLICAS: &str = "/tessera/v1/replicas/";

/// The registry; clones share one store.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
}

/// Who is there, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Shard workers.
    pub workers: BTreeMap<String, WorkerRecord>,
    /// Who holds which worker.
    pub claims: BTreeMap<String, ClaimRecord>,
    /// Replicas.
    pub replicas: BTreeMap<String, ReplicaRecord>,
}

impl Membership {
    /// Workers that no replica holds, in order of id.
    pub fn free_workers(&self) -> impl Iterator<Item = &WorkerRecord> {
        self.workers.values().filter(|worker| !self.claims.contains_key(&worker.id))
    }

    /// Takes a change into account.
    pub fn apply(&mut self, change: MembershipChange) {
        match change {
            MembershipChange::Worker(id, record) => set(&mut self.workers, id, record),
            MembershipChange::Claim(id, record) => set(&mut self.claims, id, record),
            MembershipChange::Replica(id, record) => set(&mut self.replicas, id, record),
        }
    }
}

fn set<T>(map: &mut BTreeMap<String, T>, id: String, record: Option<T>) {
    match record {
        Some(record) => drop(map.insert(id, record)),
        None => drop(map.remove(&id)),
    }
}

/// A record that came, changed, or with `None` went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A worker by its id.
    Worker(String, Option<WorkerRecord>),
    /// The hold on a worker, by the worker's id.
    Claim(String, Option<ClaimRecord>),
    /// A replica by its id.
    Replica(String, Option<ReplicaRecord>),
}

impl Registry {
    /// A registry over a store.
    pub fn new(store: impl Store + 'static) -> Self {
        Self { store: Arc::new(store) }
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
    /// [`RegistryError::Taken`] when one of them is gone or held; none is claimed then.
    pub async fn claim(&self, lease: LeaseId, replica: &str, workers: &[String]) -> Result<Epoch, RegistryError> {
        let record = ClaimRecord { replica: replica.to_owned() };
        let present = workers.iter().map(|id| Compare::Exists(format!("{WORKERS}{id}")));
        let free = workers.iter().map(|id| Compare::Absent(format!("{CLAIMS}{id}")));
        let conditions = present.chain(free).collect();
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
        for entry in entries {
            if let Some(change) = read(Change::Put(entry))? {
                membership.apply(change);
            }
        }
        Ok((revision, membership))
    }

    /// Every change after a revision.
    pub async fn watch(&self, after: Revision) -> Result<MembershipWatch, RegistryError> {
        Ok(MembershipWatch(self.store.watch(ROOT, after).await?))
    }

    async fn put(&self, key: String, record: &impl Serialize, lease: LeaseId) -> Result<Revision, RegistryError> {
        let revision = self.store.commit(vec![], vec![put(key, record, lease)?]).await?;
        // A transaction without conditions always goes through.
        revision.ok_or(RegistryError::Taken)
    }
}

/// Changes in order.
pub struct MembershipWatch(Watch);

impl MembershipWatch {
    /// The next change; waits for one. `None` when the watch ended. After an error or the end, list and watch again.
    pub async fn next(&mut self) -> Option<Result<MembershipChange, RegistryError>> {
        loop {
            match self.0.recv().await?.and_then(read) {
                Ok(Some(change)) => return Some(Ok(change)),
                // A key of a later version of the layout.
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn put(key: String, record: &impl Serialize, lease: LeaseId) -> Result<Write, RegistryError> {
    match serde_json::to_string(record) {
        Ok(value) => Ok(Write::Put { key, value, lease }),
        Err(error) => Err(RegistryError::Record { key, problem: error.to_string() }),
    }
}

fn read(change: Change) -> Result<Option<MembershipChange>, RegistryError> {
    let (key, entry) = match change {
        Change::Put(entry) => (entry.key.clone(), Some(entry)),
        Change::Delete { key, .. } => (key, None),
    };
    let change = if let Some(id) = key.strip_prefix(WORKERS) {
        MembershipChange::Worker(id.to_owned(), parse(entry)?)
    } else if let Some(id) = key.strip_prefix(CLAIMS) {
        MembershipChange::Claim(id.to_owned(), parse(entry)?)
    } else if let Some(id) = key.strip_prefix(REPLICAS) {
        MembershipChange::Replica(id.to_owned(), parse(entry)?)
    } else {
        return Ok(None);
    };
    Ok(Some(change))
}

fn parse<T: DeserializeOwned>(entry: Option<Entry>) -> Result<Option<T>, RegistryError> {
    let Some(entry) = entry else { return Ok(None) };
    let record = serde_json::from_str(&entry.value);
    record.map(Some).map_err(|error| RegistryError::Record { key: entry.key, problem: error.to_string() })
}
