//! How much the router takes on at once. What is over that is refused at once, with a time to come back.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::RequestError;

/// When a refused client should come back.
const COME_BACK: Duration = Duration::from_secs(1);
/// Bytes are counted in units of this, since a semaphore's permits are 32 bits.
const UNIT: usize = 1024;

/// Bounds on all requests together.
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// A request's share; given back when dropped.
pub(crate) struct Permit {
    _request: OwnedSemaphorePermit,
    bytes: Option<OwnedSemaphorePermit>,
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
        Ok(Permit { _request: request, bytes: None })
    }

    /// Lets a request hold so many more bytes, or refuses it.
    pub(crate) fn hold(&self, permit: &mut Permit, bytes: usize) -> Result<(), RequestError> {
        let refused = || RequestError::exhausted("the server holds as many images and bodies as it has memory for", COME_BACK);
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| refused())?;
        let more = self.bytes.clone().try_acquire_many_owned(units).map_err(|_| refused())?;
        match &mut permit.bytes {
            Some(held) => held.merge(more),
            None => permit.bytes = Some(more),
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
        let mut first = admission.enter().unwrap();
        let mut second = admission.enter().unwrap();
        let refusal = admission.enter().err().unwrap();
        assert_eq!((refusal.kind, refusal.retry_after), (ErrorKind::Exhausted, Some(COME_BACK)));
        admission.hold(&mut first, 4 * UNIT).unwrap();
        admission.hold(&mut first, 4 * UNIT + 1).unwrap();
        assert_eq!(admission.hold(&mut second, 2 * UNIT).unwrap_err().kind, ErrorKind::Exhausted);
        drop(first);
        admission.hold(&mut second, 10 * UNIT).unwrap();
        assert!(admission.enter().is_ok());
    }
}
