//! Claims: one holder a worker, and epochs that grow.

use std::collections::{BTreeMap, BTreeSet};

use super::{TTL, names, register};
use crate::{Registry, RegistryError, Revision};

pub(super) async fn all<F: Future<Output = Registry>>(empty: impl Fn() -> F) {
    a_claim_is_exclusive_and_epochs_grow(empty().await).await;
    a_claims_epoch_is_the_revision_that_made_it(empty().await).await;
    concurrent_claims_of_one_group_have_one_winner(empty().await).await;
    overlapping_claims_never_share_a_worker(empty().await).await;
    a_claim_of_an_absent_worker_takes_none_of_the_others(empty().await).await;
    a_claim_of_nothing_or_of_one_worker_twice_is_refused(empty().await).await;
    a_claim_under_an_ended_lease_is_refused(empty().await).await;
    a_release_under_an_old_epoch_changes_nothing(empty().await).await;
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

async fn a_claims_epoch_is_the_revision_that_made_it(registry: Registry) {
    let _workers = register(&registry, &["a", "b"]).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    let epoch = registry.claim(lease.id(), "r", &names(&["a", "b"])).await.expect("a claim");
    let (revision, entries) = registry.store().list("/tessera/v1/claims/").await.expect("a list");
    assert_eq!(entries.iter().map(|entry| entry.created).collect::<Vec<_>>(), [Revision(epoch.0); 2]);
    // Others may write to the same store.
    assert!(revision >= Revision(epoch.0), "{revision:?} is before {epoch}");
}

async fn concurrent_claims_of_one_group_have_one_winner(registry: Registry) {
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

async fn overlapping_claims_never_share_a_worker(registry: Registry) {
    const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let _workers = register(&registry, &IDS).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    let pairs = (0..IDS.len()).flat_map(|first| (0..IDS.len()).map(move |second| (first, second)));
    let tasks: Vec<_> = pairs
        .filter(|(first, second)| first != second)
        .map(|(first, second)| {
            let (registry, lease) = (registry.clone(), lease.id());
            let (replica, workers) = (format!("r{first}{second}"), names(&[IDS[first], IDS[second]]));
            tokio::spawn(async move { (registry.claim(lease, &replica, &workers).await, replica, workers) })
        })
        .collect();
    let (mut held, mut epochs) = (BTreeMap::new(), BTreeSet::new());
    for task in tasks {
        let (outcome, replica, workers) = task.await.expect("no panic");
        let Ok(epoch) = outcome else { continue };
        assert!(epochs.insert(epoch), "two claims are of epoch {epoch}");
        for worker in workers {
            let before = held.insert(worker.clone(), replica.clone());
            assert_eq!(before, None, "{replica} holds {worker} too");
        }
    }
    let claims = registry.members().await.expect("members").1.claims;
    assert_eq!(claims.into_iter().map(|(worker, claim)| (worker, claim.replica)).collect::<BTreeMap<_, _>>(), held);
}

async fn a_claim_of_an_absent_worker_takes_none_of_the_others(registry: Registry) {
    let _workers = register(&registry, &["a"]).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    assert_eq!(registry.claim(lease.id(), "r", &names(&["a", "ghost"])).await, Err(RegistryError::Taken));
    registry.claim(lease.id(), "r", &names(&["a"])).await.expect("nothing was claimed by halves");
}

async fn a_claim_of_nothing_or_of_one_worker_twice_is_refused(registry: Registry) {
    let _workers = register(&registry, &["a"]).await;
    let lease = registry.lease(TTL).await.expect("a lease");
    assert_eq!(registry.claim(lease.id(), "r", &[]).await, Err(RegistryError::Malformed));
    assert_eq!(registry.claim(lease.id(), "r", &names(&["a", "a"])).await, Err(RegistryError::Malformed));
    assert!(registry.members().await.expect("members").1.claims.is_empty());
}

async fn a_claim_under_an_ended_lease_is_refused(registry: Registry) {
    let _workers = register(&registry, &["a"]).await;
    let lease = registry.store().grant(TTL).await.expect("a lease");
    registry.store().revoke(lease).await.expect("a revocation");
    assert_eq!(registry.claim(lease, "r", &names(&["a"])).await, Err(RegistryError::LeaseEnded(lease)));
    assert!(registry.members().await.expect("members").1.claims.is_empty());
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
