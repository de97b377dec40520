//! How a replica is made.

use clap::{Args, ValueEnum};
use tessera_types::VisionParallel;

use super::parse::parse_degree;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArg {
    /// 32-bit floats: twice the memory, for checking.
    F32,
    /// bfloat16 weights and cache; arithmetic is 32-bit on CPUs.
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuantizationArg {
    /// Not at all.
    None,
    /// 8-bit floats with a scale for each output, made of the checkpoint's weights at load. On GPUs, real or simulated.
    Fp8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtypeArg {
    /// As --dtype says.
    Auto,
    /// 8-bit floats with a scale for each token and head, made as keys and values are stored. On GPUs, real or simulated.
    Fp8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArg {
    /// Whatever fits.
    Auto,
    /// Shared memory.
    Shm,
    /// TCP, on the worker's port + 1000.
    Tcp,
}

/// How a replica is made.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReplicaArgs {
    /// Tensor parallel degree: shard workers of a replica (1, 2, 4 or 8).
    #[arg(long, value_name = "N", default_value_t = 1, env = "TESSERA_TP", value_parser = parse_degree)]
    pub(crate) tp: u16,
    /// Run on fewer workers (a half, a quarter) where there are not enough, and grow again when they come.
    #[arg(long, env = "TESSERA_ELASTIC")]
    pub(crate) elastic: bool,
    /// What joins ranks on CPUs: shared memory where all are on one host and TCP otherwise, or always one of them.
    #[arg(long, value_enum, default_value = "auto", env = "TESSERA_TRANSPORT")]
    pub(crate) transport: TransportArg,
    /// What weights and cache are kept in.
    #[arg(long, value_enum, default_value = "bf16", env = "TESSERA_DTYPE")]
    pub(crate) dtype: DtypeArg,
    /// How ranks share the encoding of images: tensor, each its part of every image; image, each other images with the whole
    /// encoder; or auto, whichever takes less time.
    #[arg(long, value_name = "WAY", default_value_t = VisionParallel::Auto, env = "TESSERA_VISION_PARALLEL")]
    pub(crate) vision_parallel: VisionParallel,
    /// How weights of the decoder's layers are quantised. Activations are not.
    #[arg(long, value_enum, default_value = "none", env = "TESSERA_QUANTIZATION")]
    pub(crate) quantization: QuantizationArg,
    /// What keys and values are kept in.
    #[arg(long, value_enum, default_value = "auto", env = "TESSERA_KV_CACHE_DTYPE")]
    pub(crate) kv_cache_dtype: KvCacheDtypeArg,
    /// Longest sequence served, prompt and answer together; the model's own limit when unset.
    #[arg(long, value_name = "TOKENS", env = "TESSERA_MAX_CONTEXT", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) max_context: Option<u32>,
    /// Sequences in one step at most.
    #[arg(long, value_name = "N", default_value_t = 64, env = "TESSERA_MAX_SEQUENCES", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) max_sequences: u32,
    /// Tokens in one step at most: decode first, then prefill chunks. When unset 512 on CPUs, and on GPUs 8192 or what has
    /// room there; more than has room is cut to that.
    #[arg(long, value_name = "TOKENS", env = "TESSERA_STEP_TOKENS", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) step_tokens: Option<u32>,
    /// Requests that may wait; more are refused with a time to retry after.
    #[arg(long, value_name = "N", default_value_t = 256, env = "TESSERA_QUEUE", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) queue: u32,
}
