//! What is registered.

use serde::{Deserialize, Serialize};

/// A shard worker that can be claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Unique among workers.
    pub id: String,
    /// Where coordinators call it, as a URI.
    pub address: String,
    /// What it computes on: `cpu`, `cuda`, `sim:h100`. What stands before a colon is the kind.
    pub device: String,
    /// Memory for weights and cache, in bytes.
    pub memory_bytes: u64,
    /// Ranks of one host meet in shared memory.
    pub host: String,
    /// What it holds already: model, degree and rank; such a worker is claimed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Whether it may be claimed.
    pub state: WorkerState,
    /// Another one after each start, so that a worker that came back is told from the one that failed.
    #[serde(default)]
    pub instance: u64,
}

impl WorkerRecord {
    /// The kind of device: `cpu`, `cuda`, `sim`.
    pub fn device_kind(&self) -> &str {
        device_kind(&self.device)
    }
}

/// The kind of a device by its name: `sim` of `sim:h100`.
pub fn device_kind(device: &str) -> &str {
    device.split_once(':').map_or(device, |(kind, _)| kind)
}

/// Whether a worker may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It may.
    Ready,
    /// It finishes what it does, and leaves.
    Draining,
}

/// A coordinator's hold on a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// The replica that holds it.
    pub replica: String,
}

/// A replica that takes requests. How busy it is, it tells those who ask it: nothing here changes in steady state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Unique among replicas.
    pub id: String,
    /// Where routers call its coordinator, as a URI.
    pub address: String,
    /// The group's life; 0 while it has none.
    pub epoch: u64,
    /// Ranks.
    pub tp: u16,
    /// The model's name.
    pub model: String,
    /// Whether it takes requests.
    pub ready: bool,
    /// It finishes what it has, and takes nothing new.
    pub draining: bool,
}
