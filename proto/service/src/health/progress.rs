//! The state behind the status; time is passed in.

use std::time::Duration;

use super::Phase;

/// Whether a process serves, and why not.
#[derive(Debug)]
pub(super) struct Progress {
    phase: Phase,
    /// Since when work has waited without progress; `None` while none waits.
    stalled_since: Option<Duration>,
    patience: Duration,
}

impl Progress {
    pub(super) fn new(patience: Duration) -> Self {
        Self { phase: Phase::Starting, stalled_since: None, patience }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        if self.phase != Phase::Draining {
            self.phase = phase;
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    pub(super) fn problem(&self, now: Duration) -> Option<&'static str> {
        match self.phase {
            Phase::Starting => Some("starting"),
            Phase::Draining => Some("draining"),
            Phase::Serving => {
                let stalled = self.stalled_since.is_some_and(|since| now.saturating_sub(since) > self.patience);
                stalled.then_some("no progress while work waits")
            }
        }
    }

    pub(super) fn work_waits(&mut self, now: Duration, waits: bool) {
        self.stalled_since = waits.then(|| self.stalled_since.unwrap_or(now));
    }

    pub(super) fn progressed(&mut self, now: Duration) {
        if self.stalled_since.is_some() {
            self.stalled_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> Progress {
        let mut progress = Progress::new(Duration::from_secs(5));
        progress.enter(Phase::Serving);
        progress
    }

    #[test]
    fn idleness_is_healthy() {
        assert_eq!(serving().problem(Duration::from_secs(1000)), None);
    }

    #[test]
    fn work_without_progress_is_not() {
        let mut progress = serving();
        progress.work_waits(Duration::from_secs(1), true);
        progress.work_waits(Duration::from_secs(4), true);
        assert_eq!(progress.problem(Duration::from_secs(6)), None);
        assert!(progress.problem(Duration::from_secs(7)).is_some(), "waiting anew does not start the time again");
        progress.progressed(Duration::from_secs(7));
        assert_eq!(progress.problem(Duration::from_secs(11)), None);
        progress.work_waits(Duration::from_secs(11), false);
        assert_eq!(progress.problem(Duration::from_secs(100)), None);
    }

    #[test]
    fn only_serving_is_healthy_and_a_drain_is_final() {
        let mut progress = Progress::new(Duration::from_secs(5));
        assert_eq!(progress.problem(Duration::ZERO), Some("starting"));
        progress.enter(Phase::Serving);
        assert_eq!(progress.problem(Duration::ZERO), None);
        progress.enter(Phase::Starting);
        assert_eq!(progress.problem(Duration::ZERO), Some("starting"), "a group can be lost");
        progress.enter(Phase::Draining);
        progress.enter(Phase::Serving);
        assert_eq!(progress.problem(Duration::ZERO), Some("draining"));
    }

    #[test]
    fn progress_while_no_work_waits_starts_no_clock() {
        let mut progress = serving();
        progress.progressed(Duration::from_secs(1));
        assert_eq!(progress.problem(Duration::from_secs(100)), None);
    }
}
