//! How long to wait awake before going to sleep.

use std::time::{Duration, Instant};

/// Longer than the gap between two operations of a step, and than a futex's round trip.
const PATIENCE: Duration = Duration::from_micros(50);
/// A gap between two looks at the clock this long means that the thread was off its core meanwhile.
const TAKEN_OFF: Duration = Duration::from_micros(500);
/// Waits to go straight to sleep for after having been taken off: with more threads than cores, one that spins
/// keeps another from the work it is waiting for.
const HUMBLE: u32 = 256;

/// A bounded spin that gives way where cores are short.
#[derive(Default)]
pub(super) struct Spin {
    humble: u32,
}

impl Spin {
    /// Spins until `ready`, and says whether it came in time.
    pub(super) fn until(&mut self, ready: impl Fn() -> bool) -> bool {
        if ready() {
            return true;
        }
        if self.humble > 0 {
            self.humble -= 1;
            return false;
        }
        let start = Instant::now();
        let mut last = start;
        loop {
            for _ in 0..32 {
                std::hint::spin_loop();
                if ready() {
                    return true;
                }
            }
            let now = Instant::now();
            if now - last > TAKEN_OFF {
                self.humble = HUMBLE;
            }
            if now - start > PATIENCE {
                return ready();
            }
            last = now;
        }
    }
}
