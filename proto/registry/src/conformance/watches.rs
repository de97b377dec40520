//! Watches: everything after a revision, once and in order.

use tokio::time::timeout;

use super::{SOON, TTL, names, next, register, worker};
use crate::{MembershipChange, Registry, RegistryError, Write};

pub(super) async fn all<F: Future<Output = Registry>>(empty: impl Fn() -> F) {
    a_watch_misses_nothing_after_its_revision(empty().await).await;
    a_watch_sees_nothing_up_to_its_revision(empty().await).await;
    a_snapshot_and_its_watch_lead_to_the_present(empty().await).await;
    a_record_that_cannot_be_read_counts_as_gone(empty().await).await;
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

async fn a_watch_sees_nothing_up_to_its_revision(registry: Registry) {
    let workers = register(&registry, &["a", "b"]).await;
    let (revision, _) = registry.members().await.expect("members");
    let mut watch = registry.watch(revision).await.expect("a watch");
    let epoch = registry.claim(workers.id(), "r", &names(&["b"])).await.expect("a claim");
    registry.release(epoch, &names(&["b"])).await.expect("a release");
    assert!(matches!(next(&mut watch).await, MembershipChange::Claim(id, Some(claim)) if id == "b" && claim.replica == "r"));
    assert_eq!(next(&mut watch).await, MembershipChange::Claim("b".into(), None));
}

async fn a_snapshot_and_its_watch_lead_to_the_present(registry: Registry) {
    let workers = register(&registry, &["a", "b", "c"]).await;
    let lease = workers.id();
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let registry = registry.clone();
            tokio::spawn(async move {
                for round in 0..20 {
                    let claim = registry.claim(lease, &format!("r{n}"), &names(&["a", "b"])).await;
                    let record = crate::WorkerRecord { memory_bytes: round, ..worker("c") };
                    registry.put_worker(lease, &record).await.expect("a change");
                    match claim {
                        Ok(epoch) => registry.release(epoch, &names(&["b"])).await.expect("a release"),
                        Err(error) => assert_eq!(error, RegistryError::Taken),
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    // Taken in the midst of it.
    let (revision, mut seen) = registry.members().await.expect("members");
    let mut watch = registry.watch(revision).await.expect("a watch");
    for writer in writers {
        timeout(SOON, writer).await.expect("an end in time").expect("no panic");
    }
    registry.put_worker(lease, &worker("last")).await.expect("a change");
    while !seen.workers.contains_key("last") {
        seen.apply(next(&mut watch).await);
    }
    assert_eq!(seen, registry.members().await.expect("members").1);
}

async fn a_record_that_cannot_be_read_counts_as_gone(registry: Registry) {
    let workers = register(&registry, &["a", "b"]).await;
    let (revision, _) = registry.members().await.expect("members");
    let mut watch = registry.watch(revision).await.expect("a watch");
    let foreign = |key: &str| Write::Put { key: format!("/tessera/v1/{key}"), value: "{".into(), lease: workers.id() };
    let writes = vec![foreign("workers/a"), foreign("inventions/of/a/later/version")];
    registry.store().commit(vec![], writes).await.expect("a change");
    assert_eq!(next(&mut watch).await, MembershipChange::Worker("a".into(), None));
    let (_, members) = registry.members().await.expect("members");
    assert_eq!(members.workers.into_keys().collect::<Vec<_>>(), ["b"]);
    let lease = registry.lease(TTL).await.expect("a lease");
    registry.put_worker(lease.id(), &worker("a")).await.expect("a registration");
    assert_eq!(next(&mut watch).await, MembershipChange::Worker("a".into(), Some(worker("a"))));
}
