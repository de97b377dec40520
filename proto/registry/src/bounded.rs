//! A store whose every call ends, and which knows for how long it has not been answered.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::{Compare, Entry, LeaseId, RegistryError, Revision, Store, Watch, Write};

/// Since when a store has answered nothing that it was asked; `None` while it answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Silence(Arc<Mutex<Option<Instant>>>);

impl Silence {
    pub(crate) fn since(&self) -> Option<Instant> {
        *self.0.lock()
    }

    /// From the first question that goes unanswered, also where who asked it has given up before its bound.
    fn asked(&self) {
        self.0.lock().get_or_insert_with(Instant::now);
    }

    fn answered(&self) {
        *self.0.lock() = None;
    }
}

/// Gives up on calls that the store below does not answer in time. What such a call did is then unknown.
pub(crate) struct Bounded<S> {
    store: S,
    bound: Duration,
    silence: Silence,
}

impl<S: Store> Bounded<S> {
    pub(crate) fn new(store: S, bound: Duration) -> Self {
        Self { store, bound, silence: Silence::default() }
    }

    pub(crate) fn silence(&self) -> Silence {
        self.silence.clone()
    }

    /// A question and its answer, which may be no.
    async fn ask<T>(&self, call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        self.silence.asked();
        let answer = self.within(call).await;
        if !matches!(answer, Err(RegistryError::Unavailable(_))) {
            self.silence.answered();
        }
        answer
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        let late = |_| Err(RegistryError::Unavailable(format!("no answer within {:?}", self.bound)));
        timeout(self.bound, call).await.unwrap_or_else(late)
    }
}

#[async_trait]
impl<S: Store> Store for Bounded<S> {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        self.ask(self.store.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.ask(self.store.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.ask(self.store.revoke(lease)).await
    }

    async fn commit(&self, conditions: Vec<Compare>, writes: Vec<Write>) -> Result<Option<Revision>, RegistryError> {
        self.ask(self.store.commit(conditions, writes)).await
    }

    async fn list(&self, prefix: &str) -> Result<(Revision, Vec<Entry>), RegistryError> {
        self.ask(self.store.list(prefix)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        // A watch may begin while the store is away, and so says nothing of that.
        self.within(self.store.watch(prefix, after)).await
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Debug, future::pending};

    use super::*;
    use crate::MemoryStore;

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

    #[tokio::test]
    async fn silence_lasts_from_the_first_unanswered_question_to_the_next_answer() {
        let silent = Bounded::new(Silent, Duration::from_secs(60));
        assert_eq!(silent.silence().since(), None, "nothing was asked");
        // Who asks gives up sooner than the bound.
        assert!(timeout(Duration::from_millis(1), silent.list("/")).await.is_err());
        let since = silent.silence().since().expect("silence");
        assert!(timeout(Duration::from_millis(1), silent.list("/")).await.is_err());
        assert_eq!(silent.silence().since(), Some(since));

        let answers = Bounded { store: MemoryStore::new(), bound: Duration::from_secs(60), silence: silent.silence() };
        answers.watch("/", Revision(0)).await.unwrap();
        assert_eq!(answers.silence().since(), Some(since), "a watch begins without an answer");
        assert!(answers.keep_alive(LeaseId(7)).await.is_err());
        assert_eq!(answers.silence().since(), None, "no is an answer");
    }
}
