//! The in-memory store does what every store must.

use tessera_registry::{MemoryStore, Registry, RegistryError, Revision, Store, Write, conformance};

#[tokio::test]
async fn the_memory_store_conforms() {
    conformance::all(|| async { Registry::new(MemoryStore::new()) }).await;
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_and_ended() {
    let store = MemoryStore::new();
    let lease = store.grant(std::time::Duration::from_secs(60)).await.unwrap();
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    for round in 0..3000 {
        let write = Write::Put { key: "/a".into(), value: round.to_string(), lease };
        store.commit(vec![], vec![write]).await.unwrap();
    }
    let mut last = None;
    while let Some(change) = watch.recv().await {
        last = Some(change);
    }
    assert_eq!(last, Some(Err(RegistryError::Behind)));
}
