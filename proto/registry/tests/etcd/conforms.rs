//! etcd does what every store must, and nothing while nothing happens.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tessera_registry::{Registry, RegistryError, Revision, Store, conformance};
use tessera_test_etcd::Etcd;
use tokio::time::sleep;

use crate::{TTL, put, registry, scoped::Scoped, soon, store, worker};

async fn conforms(etcd: &Etcd) {
    let taken = AtomicUsize::new(0);
    conformance::all(|| {
        let scope = format!("/fact{}", taken.fetch_add(1, Ordering::Relaxed));
        let registry = Registry::new(Scoped { store: store(&etcd.url()), scope });
        async { registry }
    })
    .await;
    assert_eq!(taken.into_inner(), 17, "every fact was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_etcd_conforms() {
    conforms(&Etcd::start(1).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_three_conforms() {
    conforms(&Etcd::start(3).await).await;
}

#[tokio::test]
async fn nothing_is_written_while_nothing_happens_and_nothing_is_left_behind() {
    let etcd = Etcd::start(1).await;
    let registry = registry(&etcd.url());
    let leases = [registry.lease(TTL).await.unwrap(), registry.lease(TTL).await.unwrap()];
    registry.put_worker(leases[0].id(), &worker("a", 1)).await.unwrap();
    let epoch = registry.claim(leases[1].id(), "r", &["a".into()]).await.unwrap();
    let _watch = registry.watch(Revision(epoch.0)).await.unwrap();
    let before = etcd.revision().await;
    sleep(TTL * 2).await;
    assert_eq!(etcd.revision().await, before, "keep-alives alone");
    assert_eq!((etcd.count("/").await, etcd.leases().await), (2, 2));
    for lease in leases {
        lease.revoke().await.unwrap();
    }
    assert_eq!((etcd.count("/").await, etcd.leases().await), (0, 0));
}

#[tokio::test]
async fn a_watcher_of_etcd_that_falls_behind_is_told_and_ended() {
    let etcd = Etcd::start(1).await;
    let store = store(&etcd.url());
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    for round in 0..1100 {
        store.commit(vec![], put("/a", &round.to_string(), lease)).await.unwrap();
    }
    let mut last = None;
    soon(async {
        while let Some(change) = watch.recv().await {
            last = Some(change);
        }
    })
    .await;
    assert_eq!(last, Some(Err(RegistryError::Behind)));
}
