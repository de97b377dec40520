//! Who is there, as a snapshot and as changes to it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use tracing::warn;

use crate::{
    Change, ClaimRecord, RegistryError, ReplicaRecord, Watch, WorkerRecord,
    keys::{CLAIMS, REPLICAS, WORKERS},
};

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

/// Changes in order.
pub struct MembershipWatch(Watch);

impl MembershipWatch {
    pub(crate) fn new(watch: Watch) -> Self {
        Self(watch)
    }

    /// The next change; waits for one. `None` when the watch ended. After an error or the end, list and watch again.
    pub async fn next(&mut self) -> Option<Result<MembershipChange, RegistryError>> {
        loop {
            match self.0.recv().await? {
                Ok(change) => {
                    if let Some(change) = read(change) {
                        return Some(Ok(change));
                    }
                    // Else a key of a later version of the layout.
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// What a change of the store means; `None` for a key that this version does not know.
pub(crate) fn read(change: Change) -> Option<MembershipChange> {
    let (key, value) = match change {
        Change::Put(entry) => (entry.key, Some(entry.value)),
        Change::Delete { key, .. } => (key, None),
    };
    let value = value.as_deref();
    if let Some(id) = key.strip_prefix(WORKERS) {
        Some(MembershipChange::Worker(id.to_owned(), parse(&key, value)))
    } else if let Some(id) = key.strip_prefix(CLAIMS) {
        Some(MembershipChange::Claim(id.to_owned(), parse(&key, value)))
    } else {
        key.strip_prefix(REPLICAS).map(|id| MembershipChange::Replica(id.to_owned(), parse(&key, value)))
    }
}

/// A record that this version cannot read counts as gone, so that one bad record does not hide all the others.
fn parse<T: DeserializeOwned>(key: &str, value: Option<&str>) -> Option<T> {
    serde_json::from_str(value?).inspect_err(|error| warn!(key, %error, "a record cannot be read; it counts as gone")).ok()
}
