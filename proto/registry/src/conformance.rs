//! What every store must do, as facts that panic when they do not hold. Tests run them on each implementation.

#![allow(clippy::expect_used, clippy::missing_panics_doc, reason = "these are tests that several crates run")]

mod claims;
mod leases;
mod watches;

use std::{future::Future, time::Duration};

use tokio::time::timeout;

use crate::{Kept, MembershipChange, MembershipWatch, Registry, WorkerRecord, WorkerState};

/// A lease's time in these tests; real stores round short ones up.
const TTL: Duration = Duration::from_secs(2);
/// How long anything may take.
const SOON: Duration = Duration::from_secs(10);

/// Runs every fact, each on a registry of its own that `empty` makes. Facts of several kinds run at once.
pub async fn all<F: Future<Output = Registry>>(empty: impl Fn() -> F) {
    tokio::join!(claims::all(&empty), leases::all(&empty), watches::all(&empty));
}

fn worker(id: &str) -> WorkerRecord {
    WorkerRecord {
        id: id.into(),
        address: format!("http://{id}:1"),
        device: "cpu".into(),
        memory_bytes: 1 << 30,
        host: "here".into(),
        fingerprint: None,
        state: WorkerState::Ready,
        instance: 1,
    }
}

async fn register(registry: &Registry, ids: &[&str]) -> Kept {
    let lease = registry.lease(TTL).await.expect("a lease");
    for id in ids {
        registry.put_worker(lease.id(), &worker(id)).await.expect("a registration");
    }
    lease
}

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

async fn next(watch: &mut MembershipWatch) -> MembershipChange {
    timeout(SOON, watch.next()).await.expect("a change in time").expect("the watch goes on").expect("no error")
}
