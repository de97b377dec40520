//! Steps under way and done, for the worker's health and those who ask.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tessera_service::Health;

/// Counts steps; clones share the counts.
#[derive(Clone)]
pub(crate) struct Work {
    health: Health,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
    progress: Arc<AtomicU64>,
}

impl Work {
    pub(crate) fn new(health: Health) -> Self {
        Self { health, counts: Arc::default() }
    }

    /// A plan has come.
    pub(crate) fn began(&self) {
        self.counts.begun.fetch_add(1, Ordering::SeqCst);
        self.health.work_waits(true);
    }

    /// A step has ended, well or not.
    pub(crate) fn ended(&self) {
        let ended = self.counts.ended.fetch_add(1, Ordering::SeqCst) + 1;
        self.health.progressed();
        if ended == self.counts.begun.load(Ordering::SeqCst) {
            self.health.work_waits(false);
        }
    }

    /// What moves, many times a step, while a step gets on.
    pub(crate) fn progress(&self) -> &Arc<AtomicU64> {
        &self.counts.progress
    }

    /// Steps that have ended, in all groups.
    pub(crate) fn steps(&self) -> u64 {
        self.counts.ended.load(Ordering::Relaxed)
    }
}
