//! Health by progress: a process that makes no tokens while work waits is not healthy, whatever else it says.

mod progress;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures::FutureExt;
use parking_lot::Mutex;
use tonic::codec::CompressionEncoding::Gzip;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService as TonicHealth},
};

use progress::Progress;

/// How often the reported status follows the state.
const TICK: Duration = Duration::from_millis(100);

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It does not serve yet, or for the moment: no group, no replica.
    Starting,
    /// It serves.
    Serving,
    /// It finishes what it has. It enters no other phase any more.
    Draining,
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
        Self(Arc::new(Inner { start: Instant::now(), progress: Mutex::new(Progress::new(patience)) }))
    }

    /// Enters a phase; one that drains stays in that.
    pub fn enter(&self, phase: Phase) {
        self.0.progress.lock().enter(phase);
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

    fn status(&self) -> ServingStatus {
        if self.problem().is_none() { ServingStatus::Serving } else { ServingStatus::NotServing }
    }

    /// The gRPC health service for the whole process (`""`) and the services named; its status follows this health.
    /// Must be called inside a tokio runtime.
    pub fn service(&self, services: &[&'static str]) -> HealthService {
        let reporter = HealthReporter::new();
        let service = HealthServer::new(TonicHealth::from_health_reporter(reporter.clone()));
        let mut report = Report { reporter, services: services.iter().copied().chain([""]).collect() };
        // Nobody else knows the reporter yet, so this does not wait; and nobody sees a status that is not true.
        let status = self.status();
        let _ = report.tell(status).now_or_never();
        tokio::spawn(follow(Arc::downgrade(&self.0), report, status));
        service.accept_compressed(Gzip).send_compressed(Gzip)
    }
}

/// What callers of the health service are told.
struct Report {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

impl Report {
    async fn tell(&mut self, status: ServingStatus) {
        for service in &self.services {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Ends the streams of those who watch: they never leave by themselves, and a server that stops would wait for them.
    async fn dismiss(&mut self) {
        for service in &self.services {
            self.reporter.set_service_status(service, ServingStatus::NotServing).await;
            self.reporter.clear_service_status(service).await;
            self.reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}

/// Tells of changes alone: who watches hears each telling.
async fn follow(health: Weak<Inner>, mut report: Report, mut told: ServingStatus) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        let Some(inner) = health.upgrade() else { return };
        if inner.progress.lock().is_draining() {
            return report.dismiss().await;
        }
        let status = Health(inner).status();
        if told != status {
            told = status;
            report.tell(status).await;
        }
    }
}
