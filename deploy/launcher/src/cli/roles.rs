//! What the serving roles are told, each as a process of its own or all in one.

use std::net::SocketAddr;

use clap::Args;

use super::{ComputeArgs, FrontArgs, IdentityArgs, ModelArgs, RegistryArgs, ReplicaArgs, TlsArgs, parse::parse_address};

/// All roles in one process.
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
    #[command(flatten)]
    pub(crate) member: MemberArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShardWorkerArgs {
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Address for the coordinator to call.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7072", env = "TESSERA_LISTEN", value_parser = parse_address)]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) member: MemberArgs,
}

/// How others find a role that they call, ask how it is, and speak to it.
#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// Address of a small HTTP server with /metrics, /healthz and /readyz; none when unset.
    #[arg(long, value_name = "ADDR", env = "TESSERA_STATUS", value_parser = parse_address)]
    pub(crate) status: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}
