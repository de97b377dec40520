//! Leases: what is put under one goes with it, and not before.

use tokio::time::{sleep, timeout};

use super::{SOON, TTL, names, next, register, worker};
use crate::{MembershipChange, Registry, RegistryError, ReplicaRecord};

pub(super) async fn all<F: Future<Output = Registry>>(empty: impl Fn() -> F) {
    the_end_of_a_lease_frees_claims_and_is_seen(empty().await).await;
    a_workers_end_is_seen_and_leaves_the_claim_to_its_holder(empty().await).await;
    a_record_put_again_under_another_lease_outlives_the_first(empty().await).await;
    a_kept_lease_outlives_its_time(empty().await).await;
    a_holder_hears_that_its_lease_has_ended(empty().await).await;
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

async fn a_workers_end_is_seen_and_leaves_the_claim_to_its_holder(registry: Registry) {
    let workers = register(&registry, &["a"]).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    let epoch = registry.claim(lease.id(), "r", &names(&["a"])).await.expect("a claim");
    let (revision, _) = registry.members().await.expect("members");
    let mut watch = registry.watch(revision).await.expect("a watch");
    // The task that keeps the lease goes, as in a crash.
    drop(workers);
    assert_eq!(next(&mut watch).await, MembershipChange::Worker("a".into(), None));
    let _again = register(&registry, &["a"]).await;
    assert_eq!(registry.claim(lease.id(), "r2", &names(&["a"])).await, Err(RegistryError::Taken));
    registry.release(epoch, &names(&["a"])).await.expect("a release");
    registry.claim(lease.id(), "r2", &names(&["a"])).await.expect("a claim of the worker that came back");
}

async fn a_record_put_again_under_another_lease_outlives_the_first(registry: Registry) {
    let first = register(&registry, &["a"]).await;
    let _second = register(&registry, &["a"]).await;
    first.revoke().await.expect("a revocation");
    assert_eq!(registry.members().await.expect("members").1.workers["a"], worker("a"));
}

async fn a_kept_lease_outlives_its_time(registry: Registry) {
    let workers = register(&registry, &["a"]).await;
    sleep(TTL * 2).await;
    assert!(registry.members().await.expect("members").1.workers.contains_key("a"));
    workers.revoke().await.expect("a revocation");
    assert!(registry.members().await.expect("members").1.workers.is_empty());
}

async fn a_holder_hears_that_its_lease_has_ended(registry: Registry) {
    let lease = registry.lease(TTL).await.expect("a lease");
    registry.store().revoke(lease.id()).await.expect("a revocation");
    timeout(SOON, lease.lost()).await.expect("the loss is told");
}
