//! One replica's brain: it claims shard workers, loads the model on them, drives them step by step, and streams
//! tokens to routers. When a worker is lost it forms a new group and replays what was running; clients see a pause.
//!
//! [`Coordinator::bind`] takes the address, [`Coordinator::run`] serves. What decides is pure and lives in
//! `tessera-engine`; what stands here moves messages.

mod admission;
mod bounded;
mod config;
mod driver;
mod group;
mod metrics;
mod replica;
mod server;
mod service;
mod session;
mod state;
mod status;

pub use config::{Config, ModelSource, Timeouts, Transport};
pub use group::{FormError, RankError};
pub use server::{Coordinator, RunError, run};
pub use state::{Condition, GroupState, ReplicaState};
