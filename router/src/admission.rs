//! How much the router takes on at once. What is over that is refused at once, with a time to come back.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::RequestError;

/// When a refused client should come back.
const COME_BACK: Duration = Duration::from_secs(1);
/// Bytes are counted in units of this, since a semaphore's permits are 32 bits.
const UNIT: usize = 1024;
/// A body is held in steps of this as it comes.
const STEP: usize = 64 << 10;

/// Bounds on all requests together.
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// A request's share; given back when dropped.
pub(crate) struct Permit {
    _request: OwnedSemaphorePermit,
    bytes: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Admission {
    /// At most `requests`, holding `bytes` of bodies and pixels between them.
    pub(crate) fn new(requests: usize, bytes: usize) -> Self {
        Self { requests: Arc::new(Semaphore::new(requests)), bytes: Arc::new(Semaphore::new(bytes / UNIT)) }
    }

    /// Takes one more request on, or refuses it.
    pub(crate) fn enter(&self) -> Result<Permit, RequestError> {
        let request = self.requests.clone().try_acquire_owned();
        let request =
            request.map_err(|_| RequestError::exhausted("the server has as many requests as it takes on", COME_BACK))?;
        Ok(Permit { _request: request, bytes: self.bytes.clone(), held: Mutex::new(None) })
    }
}

impl Permit {
    /// Lets the request hold so many more bytes, or refuses it.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), RequestError> {
        let refused = || RequestError::exhausted("the server holds as many images and bodies as it has memory for", COME_BACK);
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| refused())?;
        let more = self.bytes.clone().try_acquire_many_owned(units).map_err(|_| refused())?;
        let mut held = self.held.lock();
        match &mut *held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }

    /// Gives back what is held: it was dropped.
    pub(crate) fn release(&self) {
        self.held.lock().take();
    }
}

/// A body on its way in, of which nothing is known but what has come.
pub(crate) struct Arriving {
    came: usize,
    held: usize,
    limit: usize,
}

impl Arriving {
    /// A body that may have `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { came: 0, held: 0, limit }
    }

    /// Takes so many more bytes on the permit's account, or refuses them.
    pub(crate) fn take(&mut self, bytes: usize, permit: &Permit) -> Result<(), RequestError> {
        self.came += bytes;
        if self.came > self.limit {
            return Err(RequestError::too_large(self.limit));
        }
        if self.came > self.held {
            let more = (self.came - self.held).next_multiple_of(STEP);
            permit.hold(more)?;
            self.held += more;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_over_the_bounds_is_refused_with_a_time_and_taken_when_room_is_made() {
        let admission = Admission::new(2, 10 * UNIT);
        let first = admission.enter().unwrap();
        let second = admission.enter().unwrap();
        let refusal = admission.enter().err().unwrap();
        assert_eq!((refusal.kind, refusal.retry_after), (ErrorKind::Exhausted, Some(COME_BACK)));
        first.hold(4 * UNIT).unwrap();
        first.hold(4 * UNIT + 1).unwrap();
        assert_eq!(second.hold(2 * UNIT).unwrap_err().kind, ErrorKind::Exhausted);
        drop(first);
        second.hold(10 * UNIT).unwrap();
        assert!(admission.enter().is_ok());
    }
}
