//! What every store must do, as facts that panic when they do not hold. Tests run them on each implementation.

#![allow(clippy::expect_used, clippy::missing_panics_doc, reason = "these are tests that several crates run")]

use std::{future::Future, time::Duration};

use tokio::time::{sleep, timeout};

use crate::{MembershipChange, MembershipWatch, Registry, RegistryError, ReplicaRecord, WorkerRecord, WorkerState};

/// A lease's time in these tests; real stores round short ones up.
const TTL: Duration = Duration::from_secs(2);
/// How long anything may take.
const SOON: Duration = Duration::from_secs(10);

/// Runs every fact, each on a registry of its own.
pub async fn all<F: Future<Output = Registry>>(empty: impl Fn() -> F) {
    a_claim_is_exclusive_and_epochs_grow(empty().await).await;
    concurrent_claims_have_one_winner(empty().await).await;
    a_claim_of_an_absent_worker_is_refused(empty().await).await;
    the_end_of_a_lease_frees_claims_and_is_seen(empty().await).await;
    a_kept_lease_outlives_its_time(empty().await).await;
    a_watch_misses_nothing_after_its_revision(empty().await).await;
    a_release_under_an_old_epoch_changes_nothing(empty().await).await;
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
    }
}

async fn register(registry: &Registry, ids: &[&str]) -> crate::Kept {
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

async fn a_claim_is_exclusive_and_epochs_grow(registry: Registry) {
    let _workers = register(&registry, &["a", "b", "c"]).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    let first = registry.claim(lease.id(), "r1", &names(&["a", "b"])).await.expect("a claim");
    assert_eq!(registry.claim(lease.id(), "r2", &names(&["b", "c"])).await, Err(RegistryError::Taken));
    let (_, members) = registry.members().await.expect("members");
    assert_eq!(members.free_workers().map(|worker| worker.id.as_str()).collect::<Vec<_>>(), ["c"]);
    registry.release(first, &names(&["a", "b"])).await.expect("a release");
    let second = registry.claim(lease.id(), "r2", &names(&["b", "c"])).await.expect("a claim of released workers");
    assert!(second > first, "{second} is not above {first}");
}

async fn concurrent_claims_have_one_winner(registry: Registry) {
    let _workers = register(&registry, &["a", "b"]).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (registry, lease) = (registry.clone(), lease.id());
            tokio::spawn(async move { registry.claim(lease, &format!("r{n}"), &names(&["a", "b"])).await })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += usize::from(task.await.expect("no panic").is_ok());
    }
    assert_eq!(winners, 1);
}

async fn a_claim_of_an_absent_worker_is_refused(registry: Registry) {
    let _workers = register(&registry, &["a"]).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    assert_eq!(registry.claim(lease.id(), "r", &names(&["a", "ghost"])).await, Err(RegistryError::Taken));
    registry.claim(lease.id(), "r", &names(&["a"])).await.expect("nothing was claimed by halves");
}

async fn the_end_of_a_lease_frees_claims_and_is_seen(registry: Registry) {
    let _workers = register(&registry, &["a"]).await;
    let lease = registry.store().grant(TTL).await.expect("a lease");
    let record = ReplicaRecord { id: "r".into(), ..ReplicaRecord::default() };
    registry.put_replica(lease, &record).await.expect("a registration");
    registry.claim(lease, "r", &names(&["a"])).await.expect("a claim");
    let (revision, _) = registry.members().await.expect("members");
    let mut watch = registry.watch(revision).await.expect("a watch");
    // Nobody keeps the lease alive, as after a crash.
    let mut gone = [next(&mut watch).await, next(&mut watch).await];
    gone.sort_by_key(|change| matches!(change, MembershipChange::Replica(..)));
    assert_eq!(gone, [MembershipChange::Claim("a".into(), None), MembershipChange::Replica("r".into(), None)]);
    assert_eq!(registry.put_replica(lease, &record).await, Err(RegistryError::LeaseEnded(lease)));
    let lease = registry.lease(TTL).await.expect("a lease");
    registry.claim(lease.id(), "r2", &names(&["a"])).await.expect("the worker is free again");
}

async fn a_kept_lease_outlives_its_time(registry: Registry) {
    let workers = register(&registry, &["a"]).await;
    sleep(TTL * 2).await;
    assert!(registry.members().await.expect("members").1.workers.contains_key("a"));
    workers.revoke().await.expect("a revocation");
    assert!(registry.members().await.expect("members").1.workers.is_empty());
}

async fn a_watch_misses_nothing_after_its_revision(registry: Registry) {
    let workers = register(&registry, &["a"]).await;
    let (revision, mut seen) = registry.members().await.expect("members");
    let mut record = worker("a");
    for memory in 0..50 {
        record.memory_bytes = memory;
        registry.put_worker(workers.id(), &record).await.expect("a change");
    }
    let mut watch = registry.watch(revision).await.expect("a watch from the past");
    for memory in 0..50 {
        let change = next(&mut watch).await;
        assert!(matches!(&change, MembershipChange::Worker(_, Some(worker)) if worker.memory_bytes == memory), "{change:?}");
        seen.apply(change);
    }
    assert_eq!(seen, registry.members().await.expect("members").1);
}

async fn a_release_under_an_old_epoch_changes_nothing(registry: Registry) {
    let _workers = register(&registry, &["a"]).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    let old = registry.claim(lease.id(), "r1", &names(&["a"])).await.expect("a claim");
    registry.release(old, &names(&["a"])).await.expect("a release");
    registry.claim(lease.id(), "r2", &names(&["a"])).await.expect("a claim");
    registry.release(old, &names(&["a"])).await.expect("a late release is no error");
    let claims = registry.members().await.expect("members").1.claims;
    assert_eq!(claims["a"].replica, "r2");
}
