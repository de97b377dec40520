//! The command line: what a user may say. Nothing here decides what it means.

mod bench;
mod parse;
mod registry;
mod replica;
mod roles;
mod tls;
mod tools;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::DeviceArg;
pub(crate) use bench::{BenchArgs, LoadArgs, RooflineArgs};
use parse::{parse_address, parse_size};
pub(crate) use registry::{IdentityArgs, RegistryArgs};
pub(crate) use replica::{DtypeArg, KvCacheDtypeArg, QuantizationArg, ReplicaArgs, TransportArg};
pub(crate) use roles::{CoordinatorArgs, RouterArgs, ShardWorkerArgs, UpArgs};
pub(crate) use tls::{FrontTlsArgs, TlsArgs};
pub(crate) use tools::{ChatArgs, DemoArgs, DrainArgs, EndpointArgs, StatusArgs};

/// Tessera serves Pixtral-12B, split by tensor parallelism over the shard workers of a replica.
#[derive(Debug, Parser)]
#[command(name = "tessera", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw a random picture, ask a small model about it, and show the answer and where the time went.
    #[command(after_help = "Exits 0 when the answer is right, 1 when it is wrong.")]
    Demo(DemoArgs),
    /// Run a whole cluster on this machine: router, coordinators and shard workers in one process.
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// Talk to a running cluster; interactive when no prompt is given.
    #[command(after_help = CHAT_EXAMPLES)]
    Chat(ChatArgs),
    /// Put load on a running cluster and report throughput and latency; or tell what an accelerator could do at best.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Run the front door alone: gRPC and OpenAI-compatible HTTP.
    Router(RouterArgs),
    /// Run one replica's brain alone: it drives the shard workers given.
    Coordinator(CoordinatorArgs),
    /// Run one shard worker alone: it loads the slice that a coordinator assigns to it.
    ShardWorker(ShardWorkerArgs),
    /// Show a cluster: its replicas, their workers, and what they do.
    Status(StatusArgs),
    /// Take a worker or a whole replica out of a cluster without an error to anyone.
    Drain(DrainArgs),
}

const UP_EXAMPLES: &str = "Examples:
  A checkpoint folder (Mistral's or Hugging Face's layout) over two ranks:
    tessera up --model /models/pixtral-12b --tp 2
  The shape without the weights, to measure:
    tessera up --model bench-1b --load-format dummy
  Ten replicas of four simulated GPUs each:
    tessera up --model pixtral-12b --load-format dummy --tp 4 --replicas 10 --device sim:h100

It prints one line `ready grpc=… http=…` when it serves, and stops cleanly on SIGINT or SIGTERM.";

const CHAT_EXAMPLES: &str = "Examples:
  tessera chat --image photo.jpg 'What is in this picture?'
  tessera chat --endpoint http://10.0.0.7:7070      # interactive; /image FILE adds a picture, /quit leaves
  tessera chat --endpoint https://pixtral.example.com:7070 --ca ca.pem 'Hello'";

const BENCH_EXAMPLES: &str = "Examples:
  tessera bench --concurrency 8 --requests 64 --prompt-tokens 256 --output-tokens 128
  tessera bench --images 1 --image-size 1024x1024 --json
  The least that every kind of step takes, with no cluster:
    tessera bench --roofline --model pixtral-12b --tp 2 --device h100";

/// Where the model comes from and how it is run.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArgs {
    /// A checkpoint folder, a configuration file, or with --load-format dummy a shape: pixtral-12b, bench-1b.
    #[arg(long, value_name = "DIR|NAME", env = "TESSERA_MODEL")]
    pub(crate) model: String,
    /// Where weights come from.
    #[arg(long, value_enum, default_value = "auto", env = "TESSERA_LOAD_FORMAT")]
    pub(crate) load_format: LoadFormat,
    /// Name clients see; the folder's name when unset.
    #[arg(long, value_name = "NAME", env = "TESSERA_SERVED_MODEL_NAME")]
    pub(crate) served_model_name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadFormat {
    /// Read the checkpoint folder; its files tell the layout.
    Auto,
    /// Make weights up: the shape runs, the answers mean nothing.
    Dummy,
}

/// How one rank computes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ComputeArgs {
    /// What ranks compute on: cpu; cuda or cuda:N, NVIDIA GPUs from the Nth on; or sim:h100, sim:h200, sim:a100, which compute nothing and take the accelerator's time
    /// (sim:h100*10: ten times as long).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", env = "TESSERA_DEVICE")]
    pub(crate) device: DeviceArg,
    /// Compute threads of each rank on a cpu; the machine's cores divided among its ranks when unset.
    #[arg(long, value_name = "T", env = "TESSERA_THREADS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
    /// Memory for keys and values on each rank, such as 512MiB or 8GiB; a share of free memory when unset,
    /// or what a GPU, real or simulated, has left beside the weights.
    #[arg(long, value_name = "SIZE", env = "TESSERA_KV_MEMORY", value_parser = parse_size)]
    pub(crate) kv_memory: Option<u64>,
    /// Where kernels made for the GPU lie; else `cubins` beside the program is looked at, and what is not there is compiled.
    #[arg(long, value_name = "FOLDER", env = "TESSERA_CUDA_KERNELS")]
    pub(crate) cuda_kernels: Option<PathBuf>,
    /// Launch every kernel by itself rather than recorded passes.
    #[arg(long, env = "TESSERA_NO_CUDA_GRAPHS")]
    pub(crate) no_cuda_graphs: bool,
    /// Begin no kernel before the one ahead of it has ended.
    #[arg(long, env = "TESSERA_NO_CUDA_OVERLAP")]
    pub(crate) no_cuda_overlap: bool,
    /// Leave all sums over GPUs to NCCL, also small ones between GPUs that reach each other's memory.
    #[arg(long, env = "TESSERA_NO_PEER_SUMS")]
    pub(crate) no_peer_sums: bool,
}

/// How the front door is opened.
#[derive(Clone, Debug, Args)]
pub(crate) struct FrontArgs {
    /// Address of the gRPC API; port 0 picks one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070", env = "TESSERA_GRPC", value_parser = parse_address)]
    pub(crate) grpc: SocketAddr,
    /// Address of the OpenAI-compatible HTTP API; port 0 picks one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "TESSERA_HTTP", value_parser = parse_address)]
    pub(crate) http: SocketAddr,
    /// Connections that each front has at once; more are refused. Each takes a file descriptor.
    #[arg(long, value_name = "N", default_value_t = 8192, env = "TESSERA_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) max_connections: u32,
    /// Memory for requests' bodies and images, such as 2GiB: half of it for what requests hold, half for decoding, where an
    /// image that takes more is refused; a quarter of what is free, 8GiB at most, when unset.
    #[arg(long, value_name = "SIZE", env = "TESSERA_IMAGE_MEMORY", value_parser = parse_size)]
    pub(crate) image_memory: Option<u64>,
    /// Fetch image URLs of public hosts. Private addresses are always refused.
    #[arg(long, env = "TESSERA_ALLOW_IMAGE_URLS")]
    pub(crate) allow_image_urls: bool,
    /// A file with one API key a line; callers must then send one as a bearer token.
    #[arg(long, value_name = "FILE", env = "TESSERA_API_KEY_FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: FrontTlsArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_no_replica_could_run_with_is_refused_by_the_options_name() {
        for (option, value) in [
            ("--tp", "0"),
            ("--tp", "3"),
            ("--tp", "65535"),
            ("--step-tokens", "0"),
            ("--max-sequences", "0"),
            ("--max-context", "0"),
            ("--queue", "4294967295"),
            ("--vision-parallel", "batch"),
            ("--quantization", "int4"),
            ("--kv-cache-dtype", "int8"),
        ] {
            let refused = Cli::try_parse_from(["tessera", "up", "--model", "m", option, value]);
            let refused = refused.err().unwrap().to_string();
            assert!(refused.contains(option) && refused.contains(value), "{refused}");
        }
        assert!(Cli::try_parse_from(["tessera", "up", "--model", "m", "--tp", "8", "--replicas", "64"]).is_ok());
    }
}
