//! Work that is too long for the event loop, on threads of its own.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::RequestError;

/// Runs long work: so much at once that there is room for the rest, and the rest of it waits.
#[derive(Clone)]
pub(crate) struct Workers(Arc<Semaphore>);

impl Workers {
    /// So many at once, one at least.
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count.max(1))))
    }

    /// Runs `work` when there is room. Once begun it runs to its end, and keeps its room for so long, even if nobody
    /// waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, RequestError> {
        let permit = self.0.clone().acquire_owned().await.map_err(|error| RequestError::internal(error.to_string()))?;
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|error| RequestError::internal(error.to_string()))
    }
}
