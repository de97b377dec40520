//! etcd does what every store must, alone and as a cluster.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tessera_registry::{EtcdConfig, EtcdStore, Registry, RegistryError, Revision, Store, Write, conformance};
use tessera_test_etcd::Etcd;

fn store(etcd: &Etcd) -> EtcdStore {
    EtcdStore::new(EtcdConfig::parse(&etcd.url()).unwrap())
}

/// The facts run on an etcd each: all write below one prefix.
async fn conforms(nodes: usize, etcds: usize) {
    let mut all = Vec::new();
    for _ in 0..etcds {
        all.push(Etcd::start(nodes).await);
    }
    let taken = AtomicUsize::new(0);
    conformance::all(|| {
        let registry = Registry::new(store(&all[taken.fetch_add(1, Ordering::Relaxed)]));
        async { registry }
    })
    .await;
}
