//! A shard worker: holds one rank's slice of the model and runs the steps it is sent.
//!
//! A thread of its own owns the device, the weights and the collective; the gRPC service holds channels to it and never
//! waits for arithmetic. Which group the worker obeys is kept between them, so that a newer epoch, a release or a
//! broken stream ends what the thread waits for.

mod advice;
mod announce;
mod config;
mod error;
mod fence;
mod guard;
mod holding;
mod ids;
mod rank;
mod request;
mod roofline;
mod run;
mod server;
mod service;
mod work;

pub use config::{Config, CudaWays, DeviceConfig};
pub use roofline::{Floor, Floors, StepKind};
pub use server::{RunError, ShardWorker};
/// The name of this host for [`Config::host`]: equal where processes share memory.
pub use tessera_collective::host;
/// A simulated accelerator for [`DeviceConfig::Sim`], why a text names none, and what bounds a [`Floor`].
pub use tessera_device::sim::{Accelerator, Bound, Figures, SimConfig, SimConfigError, StepTime};
/// What weights and the cache are kept in, for [`Floors::new`].
pub use tessera_device::{CacheDtype, Dtype, Formats, Quantization, WeightFormat};
