//! A shard worker: holds one rank's slice of the model and runs the steps it is sent.
//!
//! A thread of its own owns the device, the weights and the collective ([`rank`]); the gRPC service holds channels to
//! it and never waits for arithmetic.

mod config;
mod fence;
mod load;
mod rank;
mod server;
mod service;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use server::{RunError, ShardWorker};
