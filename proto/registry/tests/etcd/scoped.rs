//! A store below a prefix of another, so that many empty registries share one etcd.

use std::time::Duration;

use async_trait::async_trait;
use tessera_registry::{Change, Compare, Entry, LeaseId, RegistryError, Revision, Store, Watch, Write};
use tokio::sync::mpsc;

pub(crate) struct Scoped<S> {
    pub(crate) store: S,
    pub(crate) scope: String,
}

impl<S> Scoped<S> {
    fn down(&self, key: &str) -> String {
        format!("{}{key}", self.scope)
    }
}

fn up(scope: &str, key: &str) -> String {
    key.strip_prefix(scope).expect("a key of the scope").to_owned()
}

#[async_trait]
impl<S: Store> Store for Scoped<S> {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.store.revoke(lease).await
    }

    async fn commit(&self, conditions: Vec<Compare>, writes: Vec<Write>) -> Result<Option<Revision>, RegistryError> {
        let conditions = conditions.into_iter().map(|condition| match condition {
            Compare::Exists(key) => Compare::Exists(self.down(&key)),
            Compare::Absent(key) => Compare::Absent(self.down(&key)),
            Compare::Created(key, revision) => Compare::Created(self.down(&key), revision),
        });
        let writes = writes.into_iter().map(|write| match write {
            Write::Put { key, value, lease } => Write::Put { key: self.down(&key), value, lease },
            Write::Delete(key) => Write::Delete(self.down(&key)),
        });
        self.store.commit(conditions.collect(), writes.collect()).await
    }

    async fn list(&self, prefix: &str) -> Result<(Revision, Vec<Entry>), RegistryError> {
        let (revision, entries) = self.store.list(&self.down(prefix)).await?;
        let entries = entries.into_iter().map(|entry| Entry { key: up(&self.scope, &entry.key), ..entry });
        Ok((revision, entries.collect()))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        let mut below = self.store.watch(&self.down(prefix), after).await?;
        let (sender, above) = mpsc::channel(1024);
        let scope = self.scope.clone();
        tokio::spawn(async move {
            while let Some(change) = below.recv().await {
                let change = change.map(|change| match change {
                    Change::Put(entry) => Change::Put(Entry { key: up(&scope, &entry.key), ..entry }),
                    Change::Delete { key, revision } => Change::Delete { key: up(&scope, &key), revision },
                });
                if sender.send(change).await.is_err() {
                    return;
                }
            }
        });
        Ok(above)
    }
}
