//! A rank that computes by itself for a while, as the other ranks do with other work.

use tessera_device::Device;

use crate::ModelError;
use crate::ranks::{Ranks, Reduce};

/// What would be summed over ranks is whole already. Instead of summing, ranks meet now and then: so one that is gone is
/// missed, nobody waits long for those with more to do, and a rank with nothing to do counts as far as any.
pub(crate) struct Apart<'a> {
    ranks: &'a mut Ranks,
    /// Rows that sums were asked for, over all of them.
    done: usize,
    /// So many between two meetings.
    stride: usize,
    met: usize,
}

impl<'a> Apart<'a> {
    pub(crate) fn new(ranks: &'a mut Ranks, stride: usize) -> Self {
        Self { ranks, done: 0, stride: stride.max(1), met: 0 }
    }

    /// Meets the other ranks as often as the one does that has most to do: `busiest` rows over all its sums.
    pub(crate) fn end(mut self, busiest: usize) -> Result<(), ModelError> {
        self.meet_until(busiest)
    }

    fn meet_until(&mut self, done: usize) -> Result<(), ModelError> {
        while self.met < done / self.stride {
            self.met += 1;
            self.ranks.meet()?;
        }
        Ok(())
    }
}

impl Reduce for Apart<'_> {
    fn all_reduce<D: Device>(&mut self, device: &D, tensor: &mut D::Tensor) -> Result<(), ModelError> {
        self.done += device.shape(tensor).0;
        self.meet_until(self.done)
    }
}
