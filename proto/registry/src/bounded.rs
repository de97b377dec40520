//! A store whose every call ends.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::{Compare, Entry, LeaseId, RegistryError, Revision, Store, Watch, Write};

/// Gives up on calls that the store below does not answer in time. What such a call did is then unknown.
pub(crate) struct Bounded<S> {
    store: S,
    bound: Duration,
}

impl<S: Store> Bounded<S> {
    pub(crate) fn new(store: S, bound: Duration) -> Self {
        Self { store, bound }
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        let late = |_| Err(RegistryError::Unavailable(format!("no answer within {:?}", self.bound)));
        timeout(self.bound, call).await.unwrap_or_else(late)
    }
}

#[async_trait]
impl<S: Store> Store for Bounded<S> {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        self.within(self.store.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.within(self.store.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.within(self.store.revoke(lease)).await
    }

    async fn commit(&self, conditions: Vec<Compare>, writes: Vec<Write>) -> Result<Option<Revision>, RegistryError> {
        self.within(self.store.commit(conditions, writes)).await
    }

    async fn list(&self, prefix: &str) -> Result<(Revision, Vec<Entry>), RegistryError> {
        self.within(self.store.list(prefix)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        self.within(self.store.watch(prefix, after)).await
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Debug, future::pending};

    use super::*;

    /// Never answers.
    struct Silent;

    #[async_trait]
    impl Store for Silent {
        async fn grant(&self, _: Duration) -> Result<LeaseId, RegistryError> {
            pending().await
        }
        async fn keep_alive(&self, _: LeaseId) -> Result<(), RegistryError> {
            pending().await
        }
        async fn revoke(&self, _: LeaseId) -> Result<(), RegistryError> {
            pending().await
        }
        async fn commit(&self, _: Vec<Compare>, _: Vec<Write>) -> Result<Option<Revision>, RegistryError> {
            pending().await
        }
        async fn list(&self, _: &str) -> Result<(Revision, Vec<Entry>), RegistryError> {
            pending().await
        }
        async fn watch(&self, _: &str, _: Revision) -> Result<Watch, RegistryError> {
            pending().await
        }
    }

    #[tokio::test]
    async fn no_call_waits_for_a_store_that_never_answers() {
        fn given_up<T: Debug>(answer: Result<T, RegistryError>) {
            assert!(matches!(answer, Err(RegistryError::Unavailable(_))), "{answer:?}");
        }
        let store = Bounded::new(Silent, Duration::from_millis(5));
        let all = async {
            given_up(store.grant(Duration::from_secs(1)).await);
            given_up(store.keep_alive(LeaseId(1)).await);
            given_up(store.revoke(LeaseId(1)).await);
            given_up(store.commit(vec![], vec![]).await);
            given_up(store.list("/").await);
            given_up(store.watch("/", Revision(0)).await);
        };
        timeout(Duration::from_secs(60), all).await.unwrap();
    }
}
