//! The registry's records in etcd. Only this module knows etcd's client.

mod commit;
mod config;
mod failure;
mod pool;
mod seen;
mod tls;
mod watch;

pub use config::{EtcdConfig, EtcdConfigError, EtcdTls};

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use etcd_client::{GetOptions, LeaseGrantOptions, PutOptions};

use self::{
    commit::{answered_at, revision, text},
    failure::Failure,
    pool::Pool,
};
use crate::{Compare, Entry, LeaseId, RegistryError, Revision, Store, Watch, Write, keys::LEASES};

/// The largest listing that is read.
const LARGEST: usize = 64 << 20;

/// Keeps records in etcd, 3.4 or newer.
///
/// Connections are made when something is asked, so the store may be made while etcd is away. Every call asks one
/// endpoint after the other until one answers, and gives up after four seconds with [`RegistryError::Unavailable`].
/// Watches go on over the loss of servers, leaders and all of etcd. TLS files are read again when they have changed.
///
/// A leader of etcd's that was stopped for longer than a lease may end that lease when it wakes, although another leader
/// kept it (etcd-io/etcd#15247, mended in later 3.4 and 3.5). Its holder hears [`RegistryError::LeaseEnded`], as it must.
#[derive(Clone)]
pub struct EtcdStore {
    pool: Arc<Pool>,
}

impl EtcdStore {
    /// A store in this etcd. Nothing is asked of it yet.
    pub fn new(config: EtcdConfig) -> Self {
        Self { pool: Arc::new(Pool::new(config)) }
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), Failure> {
        let renewed = self.pool.ask(|client| async move { client.lease_client().keep_alive(lease.0).await }).await;
        renewed.map(drop)
    }

    /// Whether the lease is there, for certain. A leader that is new may deny a lease that it has yet to read of in its
    /// log; a write is answered by the log itself, and goes with the lease.
    async fn is_there(&self, lease: LeaseId) -> Result<bool, Failure> {
        let put = self.pool.ask(|client| async move {
            let options = PutOptions::new().with_lease(lease.0);
            client.kv_client().put(format!("{LEASES}{:x}", lease.0), "", Some(options)).await
        });
        match put.await {
            Ok(_) => Ok(true),
            Err(Failure::NoLease) => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    /// etcd counts in whole seconds, and raises times that are shorter than an election; the lease lives `ttl` or longer.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        // The id is ours, so that asking twice grants one lease.
        let lease = LeaseId(rand::random_range(1..=i64::MAX));
        let seconds = whole_seconds(ttl);
        let granted = self.pool.ask(|client| async move {
            client.lease_client().grant(seconds, Some(LeaseGrantOptions::new().with_id(lease.0))).await
        });
        match granted.await {
            Ok(_) | Err(Failure::LeaseExists) => Ok(lease),
            Err(failure) => Err(failure.into_error(None)),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        let renewed = match self.renew(lease).await {
            Err(Failure::NoLease) => match self.is_there(lease).await {
                Ok(true) => match self.renew(lease).await {
                    Err(Failure::NoLease) => Err(Failure::Unknown("the leader does not know the lease yet".into())),
                    renewed => renewed,
                },
                Ok(false) => Err(Failure::NoLease),
                Err(failure) => Err(failure),
            },
            renewed => renewed,
        };
        renewed.map_err(|failure| failure.into_error(Some(lease)))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        match self.pool.ask(|client| async move { client.lease_client().revoke(lease.0).await }).await {
            Ok(_) | Err(Failure::NoLease) => Ok(()),
            Err(failure) => Err(failure.into_error(Some(lease))),
        }
    }

    async fn commit(&self, conditions: Vec<Compare>, writes: Vec<Write>) -> Result<Option<Revision>, RegistryError> {
        commit::commit(&self.pool, &conditions, &writes).await
    }

    async fn list(&self, prefix: &str) -> Result<(Revision, Vec<Entry>), RegistryError> {
        let listed = self.pool.ask(|client| async move {
            let mut client = client.kv_client().max_decoding_message_size(LARGEST);
            let listed = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
            let entries = listed.kvs().iter().map(|pair| Entry {
                key: text(pair.key()),
                value: text(pair.value()),
                created: revision(pair.create_revision()),
                modified: revision(pair.mod_revision()),
            });
            Ok((answered_at(listed.header()), entries.collect()))
        });
        listed.await.map(|(_, listed)| listed).map_err(|failure| failure.into_error(None))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        Ok(watch::watch(self.pool.clone(), prefix, after))
    }
}

fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_never_shorter_than_asked() {
        let seconds = |millis| whole_seconds(Duration::from_millis(millis));
        assert_eq!([seconds(0), seconds(1), seconds(1000), seconds(1001), seconds(2500)], [1, 1, 1, 2, 3]);
    }
}
