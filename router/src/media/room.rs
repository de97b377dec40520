//! Memory for images while they are decoded. Unlike what a request holds it is given back soon and by itself, so that
//! those who find none wait instead of being refused.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this, since a semaphore's permits are 32 bits.
const UNIT: u64 = 1 << 16;

/// Room for what decoding takes.
pub(super) struct Room {
    units: u32,
    free: Arc<Semaphore>,
}

impl Room {
    /// So many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes as u64 / UNIT).unwrap_or(u32::MAX);
        Self { units, free: Arc::new(Semaphore::new(units as usize)) }
    }

    /// Room for so many bytes, once there is; whoever asked first is first. It is given back when dropped.
    ///
    /// # Errors
    /// What is wrong with an image for which there will never be room.
    pub(super) async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, String> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok().filter(|&units| units <= self.units);
        let units = units.ok_or_else(|| {
            let (needed, most) = (bytes >> 20, (u64::from(self.units) * UNIT) >> 20);
            format!("may take {needed} MiB to be decoded, more than the {most} MiB there are for that")
        })?;
        self.free.clone().acquire_many_owned(units).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn images_that_do_not_fit_beside_each_other_wait_in_turn() {
        let room = Room::new(100 << 20);
        let first = room.take(60 << 20).now_or_never().unwrap().unwrap();
        let mut second = Box::pin(room.take(60 << 20));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(room.take(30 << 20).now_or_never().is_none(), "nobody overtakes");
        drop(first);
        let second = second.now_or_never().unwrap().unwrap();
        assert!(room.take(30 << 20).now_or_never().is_some());
        drop(second);
        assert!(room.take(100 << 20).now_or_never().unwrap().is_ok());
        let refusal = room.take((100 << 20) + 1).now_or_never().unwrap().unwrap_err();
        assert!(refusal.contains("100 MiB"), "{refusal}");
    }
}
