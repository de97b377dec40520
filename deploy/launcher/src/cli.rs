//! The command line: what a user may say. Nothing here decides what it means.

mod parse;
mod registry;
mod replica;
mod tls;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::DeviceArg;
use parse::{parse_address, parse_degree, parse_dimensions, parse_size};
pub(crate) use registry::{IdentityArgs, RegistryArgs};
pub(crate) use replica::{DtypeArg, QuantizationArg, ReplicaArgs, TransportArg};
pub(crate) use tls::{FrontTlsArgs, TlsArgs};

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
    /// Put load on a running cluster and report throughput and latency.
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
  tessera bench --images 1 --image-size 1024x1024 --json";

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
    /// Fetch image URLs of public hosts. Private addresses are always refused.
    #[arg(long, env = "TESSERA_ALLOW_IMAGE_URLS")]
    pub(crate) allow_image_urls: bool,
    /// A file with one API key a line; callers must then send one as a bearer token.
    #[arg(long, value_name = "FILE", env = "TESSERA_API_KEY_FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: FrontTlsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The learned model's folder.
    #[arg(long, value_name = "DIR", default_value = "tests/fixtures/shapes")]
    pub(crate) model: PathBuf,
    /// Shard workers.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = parse_degree)]
    pub(crate) tp: u16,
    /// Draws the same picture and question again.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where to leave the picture.
    #[arg(long, value_name = "FILE", default_value = "target/demo.png")]
    pub(crate) picture: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) replica: ReplicaArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) front: FrontArgs,
    /// Serving copies of the model.
    #[arg(long, value_name = "R", default_value_t = 1, env = "TESSERA_REPLICAS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) replicas: u16,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again every second until interrupted.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Ask these coordinators and shard workers, and not the registry, as when it is away.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) at: Vec<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// A worker's or a replica's name, as `tessera status` shows it.
    pub(crate) name: String,
    /// Seconds that running requests may take to end before they are moved to another replica; the replica's own bound when
    /// unset.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

/// The router that a client talks to.
#[derive(Debug, Args)]
pub(crate) struct EndpointArgs {
    /// The router's gRPC address; https:// where its front has TLS.
    #[arg(long, value_name = "ADDR", default_value = "http://127.0.0.1:7070", env = "TESSERA_ENDPOINT")]
    pub(crate) endpoint: String,
    /// Certificates that sign the router's, in PEM; those that this machine trusts when unset.
    #[arg(long, value_name = "FILE", env = "TESSERA_CA")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) router: EndpointArgs,
    /// A picture to ask about; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Instructions before the conversation.
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// The same seed gives the same answer.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Longest answer.
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub(crate) max_tokens: u32,
    /// What to say.
    pub(crate) prompt: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) router: EndpointArgs,
    /// Requests in flight.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) concurrency: u32,
    /// Requests in all.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) requests: u32,
    /// Random text tokens of each prompt.
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub(crate) prompt_tokens: u32,
    /// Tokens generated for each request; end tokens are ignored.
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    pub(crate) output_tokens: u32,
    /// Pictures in each prompt.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) images: u32,
    /// Size of the pictures.
    #[arg(long, value_name = "WxH", default_value = "256x256", value_parser = parse_dimensions)]
    pub(crate) image_size: (u32, u32),
    /// Seed of prompts and pictures.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RouterArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) front: FrontArgs,
    /// A coordinator's address; may be given several times.
    #[arg(
        long = "replica",
        value_name = "ADDR",
        conflicts_with = "registry",
        env = "TESSERA_REPLICA_ADDRESSES",
        value_delimiter = ','
    )]
    pub(crate) replicas: Vec<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) replica: ReplicaArgs,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// Address for routers to call.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7071", env = "TESSERA_LISTEN", value_parser = parse_address)]
    pub(crate) listen: SocketAddr,
    /// A shard worker's address; give at least tp of them, and each to one coordinator only.
    #[arg(
        long = "worker",
        value_name = "ADDR",
        conflicts_with = "registry",
        env = "TESSERA_WORKER_ADDRESSES",
        value_delimiter = ','
    )]
    pub(crate) workers: Vec<String>,
    /// Address of a small HTTP server with /metrics, /healthz and /readyz; none when unset.
    #[arg(long, value_name = "ADDR", env = "TESSERA_STATUS", value_parser = parse_address)]
    pub(crate) status: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShardWorkerArgs {
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// Address for the coordinator to call.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7072", env = "TESSERA_LISTEN", value_parser = parse_address)]
    pub(crate) listen: SocketAddr,
    /// Address of a small HTTP server with /metrics, /healthz and /readyz; none when unset.
    #[arg(long, value_name = "ADDR", env = "TESSERA_STATUS", value_parser = parse_address)]
    pub(crate) status: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
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
            ("--quantization", "int4"),
        ] {
            let refused = Cli::try_parse_from(["tessera", "up", "--model", "m", option, value]);
            let refused = refused.err().unwrap().to_string();
            assert!(refused.contains(option) && refused.contains(value), "{refused}");
        }
        assert!(Cli::try_parse_from(["tessera", "up", "--model", "m", "--tp", "8", "--replicas", "64"]).is_ok());
    }
}
