//! Complaints about what a peer could cause at will: now and then only.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two of them.
const PAUSE: Duration = Duration::from_secs(10);

/// When there was last a complaint.
#[derive(Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it is time for one; if so, it counts as made.
    pub(crate) fn may_speak(&self) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|last| last.elapsed() >= PAUSE);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
