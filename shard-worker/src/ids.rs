//! Ids that ranks meet under by NCCL, and what they cost: each keeps a socket and a thread of this process until every rank
//! has come, and nothing but the end of the process frees those of a group that never met.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tessera_collective::{LastResort, NcclId};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tonic::Status;

use crate::error::LoadError;

/// Ids under which no group has met, at most.
const UNUSED: usize = 64;
/// How long making one may take. NCCL is loaded when it is first asked, from a disk that may be slow.
const WITHIN: Duration = Duration::from_secs(10);
/// Before the end of the process, for the answer that tells why.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The ids that this process has made; clones share them.
#[derive(Clone)]
pub(crate) struct Ids {
    unused: Arc<Mutex<HashSet<NcclId>>>,
    /// One is made at a time: were NCCL to hang, one thread would.
    making: Arc<Semaphore>,
    within: Duration,
    last_resort: LastResort,
}

impl Default for Ids {
    fn default() -> Self {
        Self::new(WITHIN, LastResort::default())
    }
}

impl Ids {
    fn new(within: Duration, last_resort: LastResort) -> Self {
        Self { unused: Arc::default(), making: Arc::new(Semaphore::new(1)), within, last_resort }
    }

    /// Makes one, on a thread that may wait. Too many that no group met under end the process.
    pub(crate) async fn make(&self, make: impl FnOnce() -> Result<NcclId, LoadError> + Send + 'static) -> Result<NcclId, Status> {
        let late = |_| Status::unavailable(format!("no id for NCCL was made within {:?}", self.within));
        let one = timeout(self.within, self.making.clone().acquire_owned()).await.map_err(late)?;
        let one = one.map_err(|error| Status::internal(error.to_string()))?;
        if self.unused.lock().len() >= UNUSED {
            return Err(self.end());
        }
        let unused = self.unused.clone();
        let making = spawn_blocking(move || {
            let _one = one;
            let id = make()?;
            // Also where nobody waits for it any more.
            unused.lock().insert(id);
            Ok::<_, LoadError>(id)
        });
        let made = timeout(self.within, making).await.map_err(late)?;
        Ok(made.map_err(|error| Status::internal(error.to_string()))??)
    }

    /// A group has met under it.
    pub(crate) fn met(&self, id: &NcclId) {
        self.unused.lock().remove(id);
    }

    fn end(&self) -> Status {
        let why = format!("no group met under {UNUSED} ids for NCCL, which keep as many threads and sockets");
        let (said, last_resort) = (why.clone(), self.last_resort.clone());
        tokio::spawn(async move {
            sleep(LAST_WORDS).await;
            last_resort.follow(&said);
        });
        Status::unavailable(why)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tonic::Code;

    use super::*;

    fn id(number: usize) -> NcclId {
        [number as u8; tessera_collective::NCCL_ID_BYTES]
    }

    fn ids(within: Duration) -> (Ids, mpsc::Receiver<String>) {
        let (tell, told) = mpsc::channel(1);
        let act = move |why: &str| drop(tell.try_send(why.to_owned()));
        (Ids::new(within, LastResort::new(LastResort::LIMIT, act)), told)
    }

    #[tokio::test]
    async fn ids_that_no_group_met_under_end_the_process_and_those_that_were_used_do_not() {
        let (ids, mut told) = ids(WITHIN);
        for number in 0..UNUSED + 10 {
            assert_eq!(ids.make(move || Ok(id(number))).await.unwrap(), id(number));
            if number < 10 {
                ids.met(&id(number));
            }
        }
        assert!(told.try_recv().is_err());
        assert_eq!(ids.make(|| Ok(id(200))).await.unwrap_err().code(), Code::Unavailable);
        assert!(told.recv().await.unwrap().contains("64 ids"));
    }

    #[tokio::test]
    async fn while_one_hangs_no_other_is_begun() {
        let (ids, _told) = ids(Duration::from_millis(20));
        let (end, hang) = std::sync::mpsc::channel::<()>();
        let hung = ids.make(move || {
            let _ = hang.recv();
            Ok(id(0))
        });
        assert_eq!(hung.await.unwrap_err().code(), Code::Unavailable);
        let begun = ids.make(|| unreachable!("another is being made"));
        assert_eq!(begun.await.unwrap_err().code(), Code::Unavailable);
        drop(end);
        while ids.make(|| Ok(id(1))).await.is_err() {}
        assert_eq!(ids.unused.lock().len(), 2, "the one that came late counts, too");
    }

    #[tokio::test]
    async fn what_cannot_be_made_costs_nothing() {
        let (ids, _told) = ids(WITHIN);
        for _ in 0..2 * UNUSED {
            let refused = ids.make(|| Err(LoadError::GivenUp(tessera_types::Epoch(1)))).await.unwrap_err();
            assert_eq!(refused.code(), Code::Aborted);
        }
        ids.make(|| Ok(id(1))).await.unwrap();
    }
}
