//! A registry that goes away and comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tessera_registry::{Compare, Entry, LeaseId, MemoryStore, RegistryError, Revision, Store, Watch, Write};

/// A store that answers nothing while it is told to; leases are kept all the same.
pub(crate) struct Leaving {
    store: MemoryStore,
    away: Arc<AtomicBool>,
}

impl Leaving {
    /// The store, and what sends it away.
    pub(crate) fn new() -> (Self, Arc<AtomicBool>) {
        let away = Arc::new(AtomicBool::new(false));
        (Self { store: MemoryStore::new(), away: away.clone() }, away)
    }

    fn there(&self) -> Result<(), RegistryError> {
        if self.away.load(SeqCst) { Err(RegistryError::Unavailable("it is away".into())) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl Store for Leaving {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        self.there()?;
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.store.keep_alive(lease).await.and(self.there())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.there()?;
        self.store.revoke(lease).await
    }

    async fn commit(&self, conditions: Vec<Compare>, writes: Vec<Write>) -> Result<Option<Revision>, RegistryError> {
        self.there()?;
        self.store.commit(conditions, writes).await
    }

    async fn list(&self, prefix: &str) -> Result<(Revision, Vec<Entry>), RegistryError> {
        self.there()?;
        self.store.list(prefix).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        self.there()?;
        self.store.watch(prefix, after).await
    }
}
