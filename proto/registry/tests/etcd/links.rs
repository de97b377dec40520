//! Links to etcd that lose what they carry.

use tessera_registry::{Compare, LeaseState, RegistryError, Revision, Store};
use tessera_test_etcd::{Etcd, Link, LinkState};
use tokio::time::{Duration, sleep};

use crate::{TTL, again, next, put, registry, soon, store, value, worker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_made_once_and_never_called_refused() {
    let etcd = Etcd::start(1).await;
    let links = [Link::to(&etcd.address(0)).await, Link::to(&etcd.address(0)).await];
    let url = format!("etcd://{},{}", links[0].address(), links[1].address());
    let lease = store(&etcd.url()).grant(Duration::from_secs(600)).await.unwrap();
    let commits = (0..4).map(|task| {
        let store = store(&url);
        tokio::spawn(async move {
            let mut made = Vec::new();
            for round in 0..15 {
                let key = format!("/{task}/{round}");
                let answer = store.commit(vec![Compare::Absent(key.clone())], put(&key, "x", lease)).await;
                made.push((key, answer));
            }
            made
        })
    });
    let commits: Vec<_> = commits.collect();
    let mut turn = 0;
    while commits.iter().any(|task| !task.is_finished()) {
        // Answers are lost now on the one link, now on the other; every other time on none.
        links[turn / 2 % 2].set(if turn % 2 == 0 { LinkState::Deaf } else { LinkState::Whole });
        turn += 1;
        sleep(Duration::from_millis(7 + (turn as u64 * 13) % 50)).await;
    }
    let (_, entries) = store(&etcd.url()).list("/").await.unwrap();
    for task in commits {
        for (key, answer) in task.await.unwrap() {
            let entry = entries.iter().find(|entry| entry.key == key);
            match answer {
                Ok(Some(revision)) => assert_eq!(entry.map(|entry| entry.created), Some(revision), "{key}"),
                // Nobody else writes this key.
                Ok(None) => panic!("{key}: refused, though its key was absent; now {entry:?}"),
                Err(error) => assert!(matches!(error, RegistryError::Unavailable(_)), "{key}: {error}"),
            }
            assert!(entry.is_none_or(|entry| entry.created == entry.modified), "{key} was put twice: {entry:?}");
        }
    }
    assert!(!entries.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_lease_ended_behind_a_cut_link_learns_it_and_registers_anew() {
    let etcd = Etcd::start(1).await;
    let link = Link::to(&etcd.address(0)).await;
    let cut_off = registry(&link.url());
    let lease = cut_off.lease(TTL).await.unwrap();
    cut_off.put_worker(lease.id(), &worker("a", 1)).await.unwrap();
    let elsewhere = registry(&etcd.url());
    let (revision, _) = elsewhere.members().await.unwrap();
    let mut watch = elsewhere.store().watch("/", revision).await.unwrap();
    link.set(LinkState::Silent);
    let end = next(&mut watch).await;
    assert_eq!(end.key(), "/tessera/v1/workers/a");
    assert_ne!(lease.state(), LeaseState::Live, "the lease has ended: its holder must have stopped before");
    link.set(LinkState::Whole);
    assert_eq!(soon(lease.settled()).await, LeaseState::Ended);
    let anew = again(|| cut_off.lease(TTL)).await.unwrap();
    let record = worker("a", 2);
    again(|| cut_off.put_worker(anew.id(), &record)).await.unwrap();
    assert_eq!(elsewhere.members().await.unwrap().1.workers["a"].memory_bytes, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_a_link_that_silently_lost_everything() {
    let etcd = Etcd::start(1).await;
    let link = Link::to(&etcd.address(0)).await;
    let mut watch = store(&link.url()).watch("/", Revision(0)).await.unwrap();
    let here = store(&etcd.url());
    let lease = here.grant(Duration::from_secs(600)).await.unwrap();
    for round in 0..3 {
        let (before, during) = (format!("{round} before"), format!("{round} during"));
        here.commit(vec![], put("/a", &before, lease)).await.unwrap();
        assert_eq!(value(&next(&mut watch).await), before);
        link.set([LinkState::Silent, LinkState::Closed, LinkState::Deaf][round]);
        here.commit(vec![], put("/a", &during, lease)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        link.set(LinkState::Whole);
        assert_eq!(value(&next(&mut watch).await), during);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_was_away_over_a_compaction_is_told_and_can_list_again() {
    let etcd = Etcd::start(1).await;
    let link = Link::to(&etcd.address(0)).await;
    let away = store(&link.url());
    let mut watch = away.watch("/", Revision(0)).await.unwrap();
    let here = store(&etcd.url());
    let lease = here.grant(Duration::from_secs(600)).await.unwrap();
    let first = here.commit(vec![], put("/a", "first", lease)).await.unwrap().unwrap();
    assert_eq!(value(&next(&mut watch).await), "first");
    link.set(LinkState::Closed);
    for round in 0..5 {
        here.commit(vec![], put("/a", &round.to_string(), lease)).await.unwrap();
    }
    etcd.compact().await;
    link.set(LinkState::Whole);
    assert_eq!(soon(watch.recv()).await, Some(Err(RegistryError::Compacted(first))));
    assert_eq!(soon(watch.recv()).await, None);
    let (revision, entries) = again(|| away.list("/")).await.unwrap();
    assert_eq!(entries[0].value, "4");
    let mut watch = away.watch("/", revision).await.unwrap();
    here.commit(vec![], put("/a", "after", lease)).await.unwrap();
    assert_eq!(value(&next(&mut watch).await), "after");
}
