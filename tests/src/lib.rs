//! What end-to-end tests share: real clusters as real processes, and where the fixtures are.

mod cluster;
pub mod fleet;
mod golden;
pub mod load;
pub mod network;
mod role;
pub mod storm;

pub use cluster::{Cluster, Up, binary};
pub use golden::{GoldenCase, GoldenPart, golden_cases};
pub use role::Role;

use std::path::PathBuf;

/// `tests/fixtures`.
pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}
