//! Health by progress: a process that makes no tokens while work waits is not healthy, whatever else it says.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService as TonicHealth},
};

/// How often the reported status follows the state.
const TICK: Duration = Duration::from_millis(100);

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It does not serve yet, or for the moment: no group, no replica.
    Starting,
    /// It serves.
    Serving,
    /// It finishes what it has.
    Draining,
}

/// The state behind the status; time is passed in.
#[derive(Debug)]
struct Progress {
    phase: Phase,
    /// Since when work has waited without progress; `None` while none waits.
    stalled_since: Option<Duration>,
    patience: Duration,
}

impl Progress {
    fn problem(&self, now: Duration) -> Option<&'static str> {
        match self.phase {
            Phase::Starting => Some("starting"),
            Phase::Draining => Some("draining"),
            Phase::Serving => {
                let stalled = self.stalled_since.is_some_and(|since| now.saturating_sub(since) > self.patience);
                stalled.then_some("no progress while work waits")
            }
        }
    }

    fn work_waits(&mut self, now: Duration, waits: bool) {
        self.stalled_since = waits.then(|| self.stalled_since.unwrap_or(now));
    }

    fn progressed(&mut self, now: Duration) {
        if self.stalled_since.is_some() {
            self.stalled_since = Some(now);
        }
    }
}

struct Inner {
    start: Instant,
    progress: Mutex<Progress>,
}

/// A process's health; clones share it.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

/// The gRPC health service, to be added to a server.
pub type HealthService = HealthServer<TonicHealth>;

impl Health {
    /// Starting; without progress for `patience` while work waits, it counts as not serving.
    pub fn new(patience: Duration) -> Self {
        let progress = Progress { phase: Phase::Starting, stalled_since: None, patience };
        Self(Arc::new(Inner { start: Instant::now(), progress: Mutex::new(progress) }))
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.0.progress.lock().phase = phase;
    }

    /// Says whether work waits for this process.
    pub fn work_waits(&self, waits: bool) {
        self.0.progress.lock().work_waits(self.0.start.elapsed(), waits);
    }

    /// Says that a token was made, or a step done.
    pub fn progressed(&self) {
        self.0.progress.lock().progressed(self.0.start.elapsed());
    }

    /// What keeps it from serving; `None` when it serves.
    pub fn problem(&self) -> Option<&'static str> {
        self.0.progress.lock().problem(self.0.start.elapsed())
    }

    /// The gRPC health service for the whole process and the services named; its status follows this health.
    pub fn service(&self, services: &[&'static str]) -> HealthService {
        let reporter = HealthReporter::new();
        let service = HealthServer::new(TonicHealth::from_health_reporter(reporter.clone()));
        tokio::spawn(follow(Arc::downgrade(&self.0), reporter, services.to_vec()));
        service
    }
}

async fn follow(health: Weak<Inner>, reporter: HealthReporter, services: Vec<&'static str>) {
    let mut reported = None;
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        let Some(health) = health.upgrade() else { return };
        let serving = Health(health).problem().is_none();
        if reported == Some(serving) {
            continue;
        }
        reported = Some(serving);
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in services.iter().chain(&[""]) {
            reporter.set_service_status(service, status).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> Progress {
        Progress { phase: Phase::Serving, stalled_since: None, patience: Duration::from_secs(5) }
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
}
