//! What a fleet is made of, and with which arguments its processes run.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result};
use tessera_test_etcd::Pace;

use super::Coordinator;
use crate::fixtures;

/// Between a worker's port and the one on which its rank meets others by TCP.
pub const RANKS: u16 = 1000;

/// What a fleet is made of. Workers are w0, w1, …, coordinators c0, …, routers r0, ….
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shard workers.
    pub workers: usize,
    /// How many more workers are known, and not started yet.
    pub later: usize,
    /// How many of all workers, the first ones, have a host of their own with a cable that can fail; see
    /// [`crate::network`].
    pub hosts: usize,
    /// How many of all workers, the last ones, are reached and reach etcd over links that can be cut.
    pub linked: usize,
    /// How slow those links are.
    pub pace: Pace,
    /// Whether each worker has a GPU, which a stand-in on the CPU is, rather than a thread of the CPU.
    pub gpus: bool,
    /// Workers whose stand-ins fail, each with the variable that says how (`shard-worker/device/cuda/fake/README.md`).
    pub failing: Vec<(&'static str, &'static str)>,
    /// Coordinators, of two ranks each.
    pub coordinators: usize,
    /// Routers.
    pub routers: usize,
    /// Whether replicas may have fewer ranks.
    pub elastic: bool,
    /// Seconds that streams may take to end when a coordinator or worker is told to leave.
    pub drain: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            workers: 3,
            later: 0,
            hosts: 0,
            linked: 0,
            pace: Pace::default(),
            gpus: false,
            failing: Vec::new(),
            coordinators: 1,
            routers: 1,
            elastic: false,
            drain: 25,
        }
    }
}

impl Plan {
    /// What a worker is run by, so that it sees the GPUs there are.
    pub(super) fn sees(&self, worker: &str) -> Vec<String> {
        if !self.gpus {
            return Vec::new();
        }
        let set =
            tessera_test_gpu::environment(self.workers + self.later).into_iter().map(|(name, value)| format!("{name}={value}"));
        let fails = self.failing.iter().filter(|(failing, _)| *failing == worker).map(|(_, variable)| (*variable).to_owned());
        ["env".to_owned()].into_iter().chain(set).chain(fails).collect()
    }

    pub(super) fn worker(&self, name: &str, listen: &str, advertise: &str, registry: &str) -> Vec<String> {
        let drain = self.drain;
        let device = match name.strip_prefix('w').filter(|_| self.gpus) {
            Some(gpu) => format!("cuda:{gpu}"),
            None => "cpu --threads 1".to_owned(),
        };
        words(&format!(
            "shard-worker --id {name} --listen {listen} --advertise {advertise} --registry {registry} \
             --device {device} --kv-memory 16MiB --drain-timeout {drain}"
        ))
    }

    pub(super) fn coordinator(&self, name: &str, at: &Coordinator, registry: &str) -> Vec<String> {
        let (drain, elastic) = (self.drain, if self.elastic { " --elastic" } else { "" });
        let Coordinator { address, status } = at;
        let command = format!(
            "coordinator --id {name} --listen {address} --status {status} --registry {registry} --tp 2 --dtype bf16 \
             --drain-timeout {drain}{elastic} --model"
        );
        with_model(&command)
    }

    pub(super) fn router(grpc: u16, http: u16, registry: &str) -> Vec<String> {
        with_model(&format!("router --grpc 127.0.0.1:{grpc} --http 127.0.0.1:{http} --registry {registry} --model"))
    }
}

fn words(command: &str) -> Vec<String> {
    command.split_whitespace().map(str::to_owned).collect()
}

/// The learned model.
fn with_model(command: &str) -> Vec<String> {
    let folder = fixtures().join("shapes").display().to_string();
    words(command).into_iter().chain([folder]).collect()
}

/// A free port that stays free: below those that the system gives to connections.
pub(super) fn port() -> Result<u16> {
    free(&[0])
}

/// One that a worker can be called at: the port of its rank is free, too.
pub(super) fn worker_port() -> Result<u16> {
    free(&[0, RANKS])
}

/// A port that is free with all of these beyond it.
fn free(beyond: &[u16]) -> Result<u16> {
    /// Ports of all fleets of this process, which begin somewhere else than another process's.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 12_000 + u16::try_from(process::id() % 180)? * 100;
    let mut ports = (0..1000).map(|_| begin + NEXT.fetch_add(1, Ordering::SeqCst) % 2000);
    let is_free = |port: &u16| beyond.iter().all(|more| TcpListener::bind(("127.0.0.1", port + more)).is_ok());
    ports.find(is_free).context("no free port")
}
