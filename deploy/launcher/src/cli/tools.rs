//! What the demo, the clients, and those who look after a cluster say.

use std::path::PathBuf;

use clap::Args;

use super::{RegistryArgs, TlsArgs, parse::parse_degree};

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
