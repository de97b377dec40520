//! Who is there, always at hand.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tracing::warn;

use crate::{Membership, Registry, RegistryError};

/// Between two attempts to read the registry. Until then, what is known stays.
const AGAIN: Duration = Duration::from_millis(500);

/// The membership, kept up to date by a task until dropped. While the registry is away it stays what it was.
pub struct Followed {
    members: watch::Receiver<Option<Arc<Membership>>>,
    task: JoinHandle<()>,
}

impl Registry {
    /// Follows the membership from now on.
    pub fn follow(&self) -> Followed {
        let (sender, members) = watch::channel(None);
        let registry = self.clone();
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = follow_once(&registry, &sender).await {
                    warn!(%error, "the registry cannot be read; what is known stays");
                }
                sleep(AGAIN).await;
            }
        });
        Followed { members, task }
    }
}

impl Followed {
    /// The membership as last heard; `None` before the registry was read at all.
    pub fn now(&self) -> Option<Arc<Membership>> {
        self.members.borrow().clone()
    }

    /// The same, for another part of the process.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Membership>>> {
        self.members.clone()
    }

    /// Waits for a change since this was last called. Never ends by itself while nothing changes.
    pub async fn changed(&mut self) {
        // The sender goes only with the task, which runs as long as `self`.
        let _ = self.members.changed().await;
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until the watch ends.
async fn follow_once(registry: &Registry, known: &watch::Sender<Option<Arc<Membership>>>) -> Result<(), RegistryError> {
    let (revision, mut members) = registry.members().await?;
    let mut watch = registry.watch(revision).await?;
    known.send_replace(Some(Arc::new(members.clone())));
    while let Some(change) = watch.next().await {
        members.apply(change?);
        known.send_replace(Some(Arc::new(members.clone())));
    }
    Ok(())
}
