//! Ending a collective from another thread.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
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
    /// Tells the others.
    tell: OnceLock<Box<dyn Fn() + Send + Sync>>,
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
        if let Some(tell) = self.0.tell.get() {
            tell();
        }
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

    /// What else an abort does, from now on.
    pub(crate) fn on_abort(&self, tell: impl Fn() + Send + Sync + 'static) {
        // An abort that comes between these two lines tells twice, which is as good as once.
        let _ = self.0.tell.set(Box::new(tell));
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
