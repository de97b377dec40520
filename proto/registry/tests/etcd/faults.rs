//! Nodes of etcd that die, stop, or are all away.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tessera_registry::{Change, LeaseState, RegistryError, Revision, Store};
use tessera_test_etcd::Etcd;
use tokio::{join, time::sleep};

use crate::{TTL, again, next, put, registry, soon, store, value, worker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lease_ends_and_no_change_is_lost_or_repeated_when_leaders_are_killed() {
    let mut etcd = Etcd::start(3).await;
    let registry = registry(&etcd.url());
    let lease = registry.lease(TTL).await.unwrap();
    let store = store(&etcd.url());
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    let done = AtomicBool::new(false);
    let write = async {
        let mut made = BTreeMap::new();
        for round in 0.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let text = round.to_string();
            if let Ok(revision) = store.commit(vec![], put("/kept", &text, lease.id())).await {
                made.insert(revision.expect("no conditions"), text);
            }
            sleep(Duration::from_millis(2)).await;
        }
        made
    };
    let faults = async {
        for _ in 0..3 {
            let leader = etcd.leader().await;
            etcd.kill(leader);
            // The others elect one of them.
            etcd.leader().await;
            sleep(TTL).await;
            etcd.restart(leader);
            etcd.ready().await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let read = async {
        let mut seen = BTreeMap::new();
        loop {
            let change = next(&mut watch).await;
            if change.key() == "/last" {
                return seen;
            }
            let newest = seen.last_key_value().map(|(revision, _)| *revision);
            assert!(newest < Some(change.revision()), "{change:?} came after {newest:?}");
            seen.insert(change.revision(), value(&change).to_owned());
        }
    };
    let write = async {
        let made = write.await;
        again(|| store.commit(vec![], put("/last", "", lease.id()))).await.unwrap();
        made
    };
    let (made, seen, ()) = join!(write, read, faults);
    assert_eq!(soon(lease.settled()).await, LeaseState::Live);
    assert!(made.len() > 100, "{} commits were enough to see anything", made.len());
    for (revision, text) in &made {
        assert_eq!(seen.get(revision), Some(text), "of {revision:?}");
    }
    // etcd's own count of how often the key was put: whatever was not acknowledged was seen too, and nothing was lost.
    assert_eq!(etcd.version("/kept").await, seen.len() as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_watches_go_on_while_a_node_is_stopped() {
    let mut etcd = Etcd::start(3).await;
    for node in 0..3 {
        // Everything that follows asks the stopped node first, over old connections and over new ones.
        let url = etcd.url_of(&[node, (node + 1) % 3, (node + 2) % 3]);
        let old = store(&url);
        // A leader that wakes revokes what it takes for expired in the meantime, as etcd 3.4 does; not this one.
        let lease = old.grant(Duration::from_secs(600)).await.unwrap();
        let (revision, _) = old.list("/").await.unwrap();
        let mut watch = old.watch("/", revision).await.unwrap();
        old.commit(vec![], put("/a", "before", lease)).await.unwrap();
        assert_eq!(value(&next(&mut watch).await), "before");
        etcd.pause(node);
        etcd_goes_on(&etcd, node).await;
        for store in [old, store(&url)] {
            again(|| store.list("/")).await.unwrap();
            let other = store.grant(Duration::from_secs(600)).await.unwrap();
            store.keep_alive(other).await.unwrap();
            let made = store.commit(vec![], put("/a", "during", other)).await.unwrap();
            assert!(made.is_some());
            store.revoke(other).await.unwrap();
            assert_eq!(value(&next(&mut watch).await), "during");
            assert!(matches!(next(&mut watch).await, Change::Delete { key, .. } if key == "/a"));
        }
        etcd.resume(node);
        etcd.ready().await;
    }
}

/// Where the stopped node led, the others need a leader first.
async fn etcd_goes_on(etcd: &Etcd, stopped: usize) {
    let others: Vec<_> = (0..3).filter(|node| *node != stopped).collect();
    let lease = again(|| store_grant(etcd.url_of(&others))).await;
    assert!(lease.is_ok(), "{lease:?}");
}

async fn store_grant(url: String) -> Result<(), RegistryError> {
    let store = store(&url);
    store.revoke(store.grant(TTL).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_leases_outlive_an_etcd_that_is_away() {
    let mut etcd = Etcd::start(3).await;
    let registry = registry(&etcd.url());
    let lease = registry.lease(TTL).await.unwrap();
    registry.put_worker(lease.id(), &worker("a", 1)).await.unwrap();
    let (revision, _) = registry.members().await.unwrap();
    let mut watch = registry.store().watch("/", revision).await.unwrap();
    (0..3).for_each(|node| etcd.kill(node));
    assert!(matches!(registry.members().await, Err(RegistryError::Unavailable(_))));
    sleep(Duration::from_secs(8)).await;
    soon(lease.doubtful()).await;
    assert_eq!(lease.state(), LeaseState::Doubtful, "etcd that is away ends nothing, and confirms nothing");
    (0..3).for_each(|node| etcd.restart(node));
    etcd.ready().await;
    let state = soon(lease.settled()).await;
    let there = again(|| registry.members()).await.unwrap().1.workers.contains_key("a");
    assert_eq!(state == LeaseState::Live, there, "what the holder learns is true");
    let anew = again(|| registry.lease(TTL)).await.unwrap();
    let record = worker("b", 2);
    again(|| registry.put_worker(anew.id(), &record)).await.unwrap();
    loop {
        // The first may have ended in between.
        if let Change::Put(entry) = next(&mut watch).await {
            assert_eq!(entry.key, "/tessera/v1/workers/b");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_may_start_before_its_etcd() {
    let mut etcd = Etcd::start(1).await;
    etcd.kill(0);
    let store = store(&etcd.url());
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    let error = store.list("/").await.unwrap_err();
    assert!(matches!(&error, RegistryError::Unavailable(problem) if problem.contains(&etcd.address(0))), "{error}");
    etcd.restart(0);
    let lease = again(|| store.grant(TTL)).await.unwrap();
    store.commit(vec![], put("/a", "here", lease)).await.unwrap();
    assert_eq!(value(&next(&mut watch).await), "here");
}
