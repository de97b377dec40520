//! A store for the roles of one process.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    Change, Compare, Entry, LeaseId, RegistryError, Revision, Store, Watch, Write,
    state::State,
    store::{WATCH_BUFFER, tell},
};

/// How often leases are looked after.
const TICK: Duration = Duration::from_millis(20);

struct Watcher {
    prefix: String,
    sender: mpsc::Sender<Result<Change, RegistryError>>,
}

struct Inner {
    start: Instant,
    state: Mutex<(State, Vec<Watcher>)>,
}

/// Keeps records in memory; leases end by this process's clock.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

impl MemoryStore {
    /// An empty store. Must be made inside a tokio runtime, which ends its leases.
    ///
    /// Revisions count on from the time of day in microseconds: shard workers of other processes obey only the newest
    /// epoch, so a coordinator that starts again with an empty store must not begin at 1 again.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let state = State::after(Revision(now.map_or(0, |now| now.as_micros() as u64)));
        let inner = Arc::new(Inner { start: Instant::now(), state: Mutex::new((state, Vec::new())) });
        tokio::spawn(expire(Arc::downgrade(&inner)));
        Self(inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

async fn expire(store: Weak<Inner>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        let Some(store) = store.upgrade() else { return };
        store.change(|state, now| ((), state.expire(now)));
    }
}

impl Inner {
    /// Changes the state and tells the watchers, all under one lock, so that every watcher sees changes in order.
    fn change<T>(&self, act: impl FnOnce(&mut State, Duration) -> (T, Vec<Change>)) -> T {
        let (state, watchers) = &mut *self.state.lock();
        let (result, changes) = act(state, self.start.elapsed());
        if !changes.is_empty() {
            watchers.retain(|watcher| watcher.tell(&changes));
        }
        result
    }
}

impl Watcher {
    /// Whether the watcher is still there and kept up.
    fn tell(&self, changes: &[Change]) -> bool {
        let mut wanted = changes.iter().filter(|change| change.key().starts_with(&self.prefix)).cloned();
        wanted.all(|change| tell(&self.sender, change)) && !self.sender.is_closed()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        Ok(self.0.change(|state, now| (state.grant(now, ttl), Vec::new())))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.0.change(|state, now| (state.keep_alive(now, lease), Vec::new()))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.0.change(|state, _| ((), state.revoke(lease)));
        Ok(())
    }

    async fn commit(&self, conditions: Vec<Compare>, writes: Vec<Write>) -> Result<Option<Revision>, RegistryError> {
        self.0.change(|state, _| match state.commit(&conditions, writes) {
            Ok(Some((revision, changes))) => (Ok(Some(revision)), changes),
            Ok(None) => (Ok(None), Vec::new()),
            Err(error) => (Err(error), Vec::new()),
        })
    }

    async fn list(&self, prefix: &str) -> Result<(Revision, Vec<Entry>), RegistryError> {
        Ok(self.0.state.lock().0.list(prefix))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        let (state, watchers) = &mut *self.0.state.lock();
        let missed = state.since(prefix, after)?;
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        let watcher = Watcher { prefix: prefix.to_owned(), sender };
        if watcher.tell(&missed) {
            watchers.push(watcher);
        }
        Ok(receiver)
    }
}
