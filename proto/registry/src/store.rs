//! What a registry needs of the place it keeps its records in: a part of etcd's interface.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Changes a watcher may fall behind.
pub(crate) const WATCH_BUFFER: usize = 1024;

/// A lease: keys put under it go when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// Counts the changes of a store; one transaction is one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, JSON here.
    pub value: String,
    /// When the key came to be.
    pub created: Revision,
    /// When the value was put.
    pub modified: Revision,
}

/// What a watch sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key has a new value.
    Put(Entry),
    /// A key is gone.
    Delete {
        /// The key.
        key: String,
        /// When it went.
        revision: Revision,
    },
}

impl Change {
    /// When it happened.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// What it happened to.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key is there.
    Exists(String),
    /// The key is not there.
    Absent(String),
    /// The key came to be in this revision.
    Created(String, Revision),
}

/// An effect of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Puts a value under a lease.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Whose end takes the key away.
        lease: LeaseId,
    },
    /// Takes a key away.
    Delete(String),
}

/// Why a call did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The lease ended, or never was.
    #[error("lease {0:?} has ended")]
    LeaseEnded(LeaseId),
    /// Changes after this revision are no longer known: list again, and watch from there.
    #[error("changes after revision {0:?} are no longer known")]
    Compacted(Revision),
    /// The watcher was too slow: list again, and watch from there.
    #[error("the watch fell behind")]
    Behind,
    /// A record that does not say what it should.
    #[error("{key}: {problem}")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A claim of no worker, or of one worker twice.
    #[error("a claim names at least one worker, and each of them once")]
    Malformed,
    /// A worker that was to be claimed is gone, or claimed by another.
    #[error("a worker is gone or claimed already")]
    Taken,
    /// The store refuses: a wrong password, a user without the right to these keys.
    #[error("the registry denies access: {0}")]
    Denied(String),
    /// The store cannot be reached, or did not say whether it did what was asked.
    #[error("the registry cannot be reached: {0}")]
    Unavailable(String),
}

/// Changes under a prefix, in order. Bounded: a reader that falls behind gets [`RegistryError::Behind`] and the end.
pub type Watch = mpsc::Receiver<Result<Change, RegistryError>>;

/// Puts a change into a watch; `false` when the watch is over. The last place is kept for saying that it fell behind.
pub(crate) fn tell(watch: &mpsc::Sender<Result<Change, RegistryError>>, change: Change) -> bool {
    if watch.capacity() <= 1 {
        let _ = watch.try_send(Err(RegistryError::Behind));
        return false;
    }
    watch.try_send(Ok(change)).is_ok()
}

/// A store of keys under leases. A [`crate::Registry`] bounds every call in time.
#[async_trait]
pub trait Store: Send + Sync {
    /// A new lease that ends unless it is kept alive within `ttl`.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError>;

    /// Starts the lease's time again.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError>;

    /// Ends the lease and takes its keys away.
    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError>;

    /// Makes all writes in one revision if every condition holds; `None` if one does not, and nothing was written.
    /// After [`RegistryError::Unavailable`] the writes may have been made, or may be made soon: look at the keys.
    async fn commit(&self, conditions: Vec<Compare>, writes: Vec<Write>) -> Result<Option<Revision>, RegistryError>;

    /// All keys with the prefix, in order, as of a revision.
    async fn list(&self, prefix: &str) -> Result<(Revision, Vec<Entry>), RegistryError>;

    /// All changes under the prefix after a revision. A store that is away for a while does not end a watch.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError>;
}
