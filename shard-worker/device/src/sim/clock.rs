//! When a device is done that does one step after the other.

use std::time::{Duration, Instant};

/// A device's time. A step begins when the one before it has ended or when it was given, whichever is later; so
/// whoever wakes up late from waiting for one step makes none of those after it later.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    free: Instant,
}

impl Clock {
    /// Of a device that has nothing to do from `now` on.
    pub fn new(now: Instant) -> Self {
        Self { free: now }
    }

    /// Takes the device for a step that came at `given`; the moment it ends.
    pub fn occupy(&mut self, given: Instant, busy: Duration) -> Instant {
        self.free = self.free.max(given) + busy;
        self.free
    }
}
