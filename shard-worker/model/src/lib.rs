//! Pixtral's forward pass over a device and a collective.
//!
//! [`WeightSource`] opens a checkpoint folder of either layout, or makes weights up. [`Model::load`] reads one rank's
//! slice of it onto a [`tessera_device::Device`]. [`Model::step`] then runs step plans: it encodes images, runs the
//! decoder over all chunks of the batch together, samples on rank 0 and hands the chosen ids to the other ranks.
//!
//! [`SimModel`] takes the same plans and computes nothing: it waits as long as an accelerator would and makes answers up.
//!
//! Every operation works on rows apart, weights split along rows sum fixed segments in a fixed tree, and a sequence's
//! random numbers come from its seed and position alone. So a sequence's tokens depend on neither the batch, nor the
//! chunking, nor the number of ranks.

mod adapter;
mod answer;
mod apart;
mod batch;
mod check;
pub mod checkpoint;
mod choose;
mod decoder;
mod encoder;
mod error;
mod figures;
mod layer;
mod ledger;
mod model;
mod open;
mod passes;
mod peers;
mod ranks;
pub mod sampling;
mod sequences;
mod sim;
mod slices;
mod step;
mod vision;
mod weights;

pub use checkpoint::{Checkpoint, CheckpointError, Fingerprint, Layout, WeightSource, shape};
pub use decoder::pass_row_bytes;
pub use error::{ModelError, PlanError};
pub use model::{CacheConfig, Model};
pub use sim::{SimModel, SimSetup};
pub use slices::shard_bytes;
pub use weights::Progress;
