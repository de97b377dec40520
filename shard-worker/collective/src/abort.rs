//! Ending a collective from another thread.

use std::{fmt, sync::Arc};

/// Ends a call in progress and all later ones; idempotent, never blocks.
#[derive(Clone)]
pub struct AbortHandle(Arc<dyn Fn() + Send + Sync>);

impl AbortHandle {
    pub(crate) fn new(abort: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// Makes the collective of this rank fail with `Aborted`, and those of the others with `PeerLost`.
    pub fn abort(&self) {
        (self.0)();
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AbortHandle")
    }
}
