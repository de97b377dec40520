//! Ending a collective from another thread.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{CollectiveError, LastResort};

/// Ends the joining of a group, a call in progress and all later ones. A handle serves one group; clones are the same
/// handle. [`AbortHandle::abort`] may be called again, and never blocks.
#[derive(Clone, Default)]
pub struct AbortHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    aborted: AtomicBool,
    /// Tell the others, and end what this rank waits for.
    acts: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
    last_resort: LastResort,
}

impl AbortHandle {
    /// A handle to join a group with.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle whose abort, should it hang, ends otherwise than by the end of the process.
    pub fn with_last_resort(last_resort: LastResort) -> Self {
        Self(Arc::new(Shared { last_resort, ..Default::default() }))
    }

    /// Makes the collective of this rank fail with `Aborted`, and those of the others with `PeerLost`.
    pub fn abort(&self) {
        self.0.aborted.store(true, Ordering::SeqCst);
        let acts = self.0.acts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        acts.iter().for_each(|act| act());
    }

    /// Whether it was called.
    pub fn is_aborted(&self) -> bool {
        self.0.aborted.load(Ordering::SeqCst)
    }

    pub(crate) fn check(&self) -> Result<(), CollectiveError> {
        if self.is_aborted() { Err(CollectiveError::Aborted) } else { Ok(()) }
    }

    pub(crate) fn last_resort(&self) -> LastResort {
        self.0.last_resort.clone()
    }

    /// What else an abort does, from now on; it must not block, and may be done more than once.
    pub fn on_abort(&self, act: impl Fn() + Send + Sync + 'static) {
        // An abort that comes between these two lines acts twice, which is as good as once.
        self.0.acts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(act));
        if self.is_aborted() {
            self.abort();
        }
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").field("aborted", &self.is_aborted()).finish()
    }
}
