//! Makes groups of ranks as threads.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use tessera_collective::{Collective, GroupConfig, Transport, join};
use tessera_types::{Epoch, Rank};

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Shm,
    Tcp,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Shm, Kind::Tcp];

/// A name that no other group has.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Addresses that are free now.
pub(crate) fn addresses(size: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

/// Rank 0 of a new group.
pub(crate) fn group(kind: Kind, size: usize) -> GroupConfig {
    let transport = match kind {
        Kind::Shm => Transport::Shm,
        Kind::Tcp => Transport::Tcp { addresses: addresses(size) },
    };
    GroupConfig { group: unique(), epoch: Epoch(1), rank: Rank(0), size, transport, deadline: LONG }
}

/// The same group as another rank sees it.
pub(crate) fn rank(config: &GroupConfig, rank: usize) -> GroupConfig {
    GroupConfig { rank: Rank(rank as u16), ..config.clone() }
}

/// Runs `body` on every rank of a group and returns what they return, in rank order.
pub(crate) fn run<T: Send>(config: &GroupConfig, body: impl Fn(&mut dyn Collective) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let spawn = |config: GroupConfig| {
            let body = &body;
            scope.spawn(move || body(join(&config).unwrap().as_mut()))
        };
        let threads: Vec<_> = (0..config.size).map(|r| spawn(rank(config, r))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
