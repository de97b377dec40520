//! The in-memory store does what every store must.

use std::time::Duration;

use tessera_registry::{MemoryStore, Registry, RegistryError, Revision, Store, Write, conformance};

fn put(value: String, lease: tessera_registry::LeaseId) -> Write {
    Write::Put { key: "/a".into(), value, lease }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_conforms() {
    conformance::all(|| async { Registry::new(MemoryStore::new()) }).await;
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_and_ended() {
    let store = MemoryStore::new();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    for round in 0..3000 {
        store.commit(vec![], vec![put(round.to_string(), lease)]).await.unwrap();
    }
    let mut last = None;
    while let Some(change) = watch.recv().await {
        last = Some(change);
    }
    assert_eq!(last, Some(Err(RegistryError::Behind)));
}

#[tokio::test]
async fn revisions_go_on_growing_in_a_store_made_later() {
    let earlier = MemoryStore::new();
    let lease = earlier.grant(Duration::from_secs(60)).await.unwrap();
    let mut before = None;
    for round in 0..10 {
        before = earlier.commit(vec![], vec![put(round.to_string(), lease)]).await.unwrap();
        // A process takes far longer than this to start again.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let later = MemoryStore::new();
    let lease = later.grant(Duration::from_secs(60)).await.unwrap();
    let after = later.commit(vec![], vec![put(String::new(), lease)]).await.unwrap();
    assert!(after > before, "{after:?} is not above {before:?}");
}
