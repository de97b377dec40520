//! The registry over real etcd: the facts of every store, and what happens when parts of etcd go.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

mod conforms;
mod faults;
mod links;
mod scoped;
mod secure;

use std::time::Duration;

use tessera_registry::{
    Change, EtcdConfig, EtcdStore, LeaseId, Registry, RegistryError, Watch, WorkerRecord, WorkerState, Write,
};
use tokio::time::timeout;

/// How long a lease lives unattended in these tests.
const TTL: Duration = Duration::from_secs(3);
/// How long anything may take, on a machine with much else to do.
const SOON: Duration = Duration::from_secs(60);

fn store(url: &str) -> EtcdStore {
    EtcdStore::new(EtcdConfig::parse(url).unwrap())
}

fn registry(url: &str) -> Registry {
    Registry::new(store(url))
}

fn worker(id: &str, memory_bytes: u64) -> WorkerRecord {
    WorkerRecord {
        id: id.into(),
        address: format!("http://{id}:1"),
        device: "cpu".into(),
        memory_bytes,
        host: "here".into(),
        fingerprint: None,
        state: WorkerState::Ready,
        instance: 1,
    }
}

fn put(key: &str, value: &str, lease: LeaseId) -> Vec<Write> {
    vec![Write::Put { key: key.into(), value: value.into(), lease }]
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("an end in time")
}

async fn next(watch: &mut Watch) -> Change {
    soon(watch.recv()).await.expect("the watch goes on").expect("no error")
}

fn value(change: &Change) -> &str {
    match change {
        Change::Put(entry) => &entry.value,
        Change::Delete { .. } => panic!("{change:?}"),
    }
}

/// Again until the registry can be reached; at most once where it matters is the caller's to see.
async fn again<T, F: Future<Output = Result<T, RegistryError>>>(call: impl Fn() -> F) -> Result<T, RegistryError> {
    soon(async {
        loop {
            match call().await {
                Err(RegistryError::Unavailable(_)) => {}
                answer => return answer,
            }
        }
    })
    .await
}
