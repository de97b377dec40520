//! The CPU device.

mod activation;
mod arena;
mod attention;
pub mod bench;
mod buffer;
mod cache;
mod element;
mod embed;
mod gemm;
mod math;
mod norm;
mod ops;
mod parts;
mod pool;
mod rotary;
mod scratch;
mod simd;
mod source;

use std::sync::Arc;

pub use arena::CpuTensor;
pub use cache::CpuCache;
pub use embed::CpuTable;
pub use gemm::CpuMatrix;
pub use rotary::CpuRotary;
pub use simd::Isa;

use arena::Arena;
use buffer::Buffer;
use pool::Pool;

use crate::{DeviceError, Dtype};

/// How a CPU device is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuConfig {
    /// Threads that compute, the one that calls the device included; at least one.
    pub threads: usize,
    /// What weights are kept in.
    pub dtype: Dtype,
}

/// A vector of weights, f32.
pub struct CpuVector(Buffer<f32>);

/// The CPUs of this host, or some of them.
pub struct CpuDevice {
    config: CpuConfig,
    isa: Isa,
    pool: Pool,
    arena: Arc<Arena>,
}

impl CpuDevice {
    /// A device on the best instruction set there is. Starts `threads - 1` threads.
    pub fn new(config: CpuConfig) -> Result<Self, DeviceError> {
        Self::with_isa(config, Isa::best())
    }

    /// A device on a chosen instruction set; results are the same on each.
    pub fn with_isa(config: CpuConfig, isa: Isa) -> Result<Self, DeviceError> {
        Ok(Self { config, isa, pool: Pool::new(config.threads)?, arena: Arena::new() })
    }

    /// How it was set up.
    pub fn config(&self) -> CpuConfig {
        self.config
    }

    /// The instruction set it computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}
