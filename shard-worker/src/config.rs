//! What a shard worker is told when it starts, resolved.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tessera_device::{DeviceError, cuda::CudaGpu, sim::SimConfig};
use tessera_service::TlsFiles;

/// A shard worker's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Unique among workers.
    pub id: String,
    /// Where coordinators call; port 0 picks one.
    pub listen: SocketAddr,
    /// The address coordinators are told, `HOST:PORT` or a URI; the one listened on when `None`.
    pub advertise: Option<String>,
    /// Workers of one host meet in shared memory.
    pub host: String,
    /// What it computes on.
    pub device: DeviceConfig,
    /// Mutual TLS with coordinators; plain connections when `None`.
    pub tls: Option<TlsFiles>,
    /// How soon others notice the worker's death by its lease.
    pub lease: Duration,
    /// A worker that is told to stop waits this long for its group to let it go.
    pub drain: Duration,
    /// Calls in progress may end within this when it stops.
    pub grace: Duration,
}

/// What a worker computes on.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceConfig {
    /// The processors of this host.
    Cpu {
        /// Threads that compute.
        threads: usize,
        /// Memory for keys and values, in bytes.
        kv_memory: u64,
    },
    /// An NVIDIA GPU.
    Cuda {
        /// The GPU.
        gpu: CudaGpu,
        /// A folder with kernels made for it.
        kernels: Option<PathBuf>,
        /// Memory for keys and values, in bytes; what is left beside the weights when `None`.
        kv_memory: Option<u64>,
        /// Which ways of being faster it goes.
        ways: CudaWays,
    },
    /// Nothing: a clock in place of arithmetic.
    Sim {
        /// The accelerator it stands for.
        accelerator: SimConfig,
        /// Memory for keys and values, in bytes; what the accelerator would have left beside the weights when `None`.
        kv_memory: Option<u64>,
    },
}

/// Ways in which a GPU is faster, each of which can be left out to see what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaWays {
    /// Passes of next tokens are recorded as CUDA graphs.
    pub graphs: bool,
    /// A kernel may begin while the one ahead of it ends.
    pub overlap: bool,
    /// GPUs of a group sum through each other's memory where they reach it.
    pub peers: bool,
}

impl DeviceConfig {
    /// The GPU `ordinal` of this process.
    ///
    /// # Errors
    /// `Library` where there is no driver, `NoDevice` where there are fewer GPUs.
    pub fn cuda(ordinal: usize, kernels: Option<PathBuf>, kv_memory: Option<u64>, ways: CudaWays) -> Result<Self, DeviceError> {
        Ok(Self::Cuda { gpu: CudaGpu::find(ordinal)?, kernels, kv_memory, ways })
    }

    /// The name others know it by: `cpu`, `cuda:0 (NVIDIA H100 80GB HBM3)`, `sim:h100`.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu { .. } => "cpu".into(),
            Self::Cuda { gpu, .. } => format!("cuda:{} ({})", gpu.ordinal, gpu.name),
            Self::Sim { accelerator, .. } => format!("sim:{accelerator}"),
        }
    }

    /// The memory others are told of, in bytes: that for keys and values, or where they share the accelerator's with
    /// the weights, all of it.
    pub fn memory(&self) -> u64 {
        match self {
            Self::Cpu { kv_memory, .. } => *kv_memory,
            Self::Cuda { gpu, kv_memory, .. } => kv_memory.unwrap_or(gpu.memory),
            Self::Sim { accelerator, kv_memory } => kv_memory.unwrap_or_else(|| accelerator.accelerator.memory()),
        }
    }
}
