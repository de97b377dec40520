//! How many connections a server has at once.

use std::{net::SocketAddr, sync::Arc};

use metrics::{Counter, Gauge, counter, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::{
    metrics::{CONNECTIONS, CONNECTIONS_REFUSED_TOTAL},
    seldom::Seldom,
};

/// Places for a server's connections. Who finds none is refused rather than left to wait, since only then does it know
/// to try elsewhere.
pub(crate) struct Places {
    address: SocketAddr,
    most: usize,
    free: Arc<Semaphore>,
    taken: Gauge,
    refused: Counter,
    complaints: Seldom,
}

/// A connection's place; given back when dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    taken: Gauge,
}

impl Places {
    pub(crate) fn new(address: SocketAddr, most: usize) -> Self {
        let labels = [("server", address.to_string())];
        Self {
            address,
            most,
            free: Arc::new(Semaphore::new(most)),
            taken: gauge!(CONNECTIONS, &labels),
            refused: counter!(CONNECTIONS_REFUSED_TOTAL, &labels),
            complaints: Seldom::default(),
        }
    }

    /// A place for one more connection; `None` where it is to be refused.
    pub(crate) fn take(&self) -> Option<Place> {
        let Ok(permit) = self.free.clone().try_acquire_owned() else {
            self.refused.increment(1);
            if self.complaints.may_speak() {
                warn!(server = %self.address, most = self.most, "connections are refused: there are as many as may be");
            }
            return None;
        };
        self.taken.increment(1);
        Some(Place { _permit: permit, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.decrement(1);
    }
}
