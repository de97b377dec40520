use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::{Compare, Entry, Revision, Watch, Write};

const TTL: Duration = Duration::from_secs(3);

/// Answers renewals as it is told.
struct Scripted(Mutex<Result<(), RegistryError>>);

impl Scripted {
    fn say(&self, answer: Result<(), RegistryError>) {
        *self.0.lock() = answer;
    }
}

#[async_trait]
impl Store for Scripted {
    async fn grant(&self, _: Duration) -> Result<LeaseId, RegistryError> {
        Ok(LeaseId(1))
    }
    async fn keep_alive(&self, _: LeaseId) -> Result<(), RegistryError> {
        self.0.lock().clone()
    }
    async fn revoke(&self, _: LeaseId) -> Result<(), RegistryError> {
        Ok(())
    }
    async fn commit(&self, _: Vec<Compare>, _: Vec<Write>) -> Result<Option<Revision>, RegistryError> {
        Ok(None)
    }
    async fn list(&self, _: &str) -> Result<(Revision, Vec<Entry>), RegistryError> {
        Ok(Default::default())
    }
    async fn watch(&self, _: &str, _: Revision) -> Result<Watch, RegistryError> {
        Err(RegistryError::Behind)
    }
}

fn away() -> Result<(), RegistryError> {
    Err(RegistryError::Unavailable("away".into()))
}

#[tokio::test(start_paused = true)]
async fn a_lease_outlives_minutes_without_its_store_in_doubt_and_is_live_again_after() {
    let store = Arc::new(Scripted(Mutex::new(Ok(()))));
    let lease = Kept::grant(store.clone(), TTL).await.unwrap();
    assert_eq!(lease.state(), LeaseState::Live);
    store.say(away());
    lease.doubtful().await;
    assert_eq!(lease.state(), LeaseState::Doubtful);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(lease.state(), LeaseState::Doubtful);
    store.say(Ok(()));
    assert_eq!(lease.settled().await, LeaseState::Live);
    assert_eq!(lease.state(), LeaseState::Live);
}

#[tokio::test(start_paused = true)]
async fn doubt_begins_a_lease_after_the_last_renewal_was_sent() {
    let store = Arc::new(Scripted(Mutex::new(Ok(()))));
    let start = Instant::now();
    let lease = Kept::grant(store.clone(), TTL).await.unwrap();
    // The renewals at 0, 1 and 2 seconds succeed, that at 3 does not.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    store.say(away());
    lease.doubtful().await;
    assert_eq!(lease.live_until(), start + Duration::from_secs(2) + TTL);
    assert!(Instant::now() >= lease.live_until());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ended_while_its_store_was_away_is_told_as_ended() {
    let store = Arc::new(Scripted(Mutex::new(away())));
    let lease = Kept::grant(store.clone(), TTL).await.unwrap();
    lease.doubtful().await;
    store.say(Err(RegistryError::LeaseEnded(LeaseId(1))));
    assert_eq!(lease.settled().await, LeaseState::Ended);
    lease.lost().await;
    assert_eq!(lease.state(), LeaseState::Ended);
}
