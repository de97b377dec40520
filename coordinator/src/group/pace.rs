//! When to say how far loading is.

use std::time::{Duration, Instant};

/// Nobody waits longer for a word.
const LONGEST: Duration = Duration::from_secs(5);
/// Nothing is said again sooner.
const SHORTEST: Duration = Duration::from_secs(1);

/// At every tenth of the bytes, and every few seconds while there is none.
pub(super) struct Pace {
    told: Instant,
    tenths: u64,
}

impl Pace {
    /// Of what begins at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { told: now, tenths: 0 }
    }

    /// Whether to say now that `done` of `total` bytes are done; if so, it was said.
    pub(super) fn is_due(&mut self, now: Instant, (done, total): (u64, u64)) -> bool {
        let tenths = (10 * done).checked_div(total).unwrap_or(0);
        let since = now.duration_since(self.told);
        let due = since >= LONGEST || (since >= SHORTEST && tenths > self.tenths);
        if due {
            (self.told, self.tenths) = (now, tenths);
        }
        due
    }

    /// When it is to be said again at the latest.
    pub(super) fn latest(&self) -> Instant {
        self.told + LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times, in tenths of a second, at which something is said of bytes that come every tenth of one.
    fn said(total: u64, done_at: impl Fn(u64) -> u64, ticks: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let tick = |tick| start + Duration::from_millis(100 * tick);
        (0..=ticks).filter(|&at| pace.is_due(tick(at), (done_at(at), total))).collect()
    }

    #[test]
    fn each_tenth_is_told_of_once() {
        // A hundredth every tenth of a second: a tenth a second.
        assert_eq!(said(100, |at| at.min(100), 100), [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    }

    #[test]
    fn what_is_quick_is_told_of_once_a_second_and_what_takes_no_second_not_at_all() {
        assert_eq!(said(100, |at| 5 * at, 20), [10, 20]);
        assert!(said(100, |at| 20 * at, 5).is_empty());
    }

    #[test]
    fn what_is_slow_or_stands_still_is_told_of_every_five_seconds() {
        assert_eq!(said(1_000_000, |at| at, 120), [50, 100]);
        assert_eq!(said(0, |_| 0, 120), [50, 100], "ranks that have not said how much there is");
    }

    #[test]
    fn it_is_due_at_the_latest_when_it_says() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(!pace.is_due(pace.latest() - Duration::from_millis(1), (0, 10)));
        assert!(pace.is_due(pace.latest(), (0, 10)));
        assert_eq!(pace.latest(), start + 2 * LONGEST);
    }
}
