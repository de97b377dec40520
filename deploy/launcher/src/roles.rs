//! The roles as processes of their own, and all of them as one.

use std::{
    io::{Write, stdout},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tessera_coordinator::{Coordinator, GroupState};
use tessera_registry::{Kept, MemoryStore, Registry, ReplicaRecord, WorkerRecord, WorkerState};
use tessera_router::RouterConfig;
use tessera_service::{Health, bind, on_signal, serve_status};
use tessera_shard_worker::ShardWorker;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    cli::{CoordinatorArgs, RouterArgs, ShardWorkerArgs, UpArgs},
    cluster::LocalCluster,
    progress,
    settings::{self, Identity, Model},
};

/// Members given by hand stay as long as the process does.
const STATIC: Duration = Duration::from_secs(60);

/// `tessera up`
pub(crate) async fn up(args: UpArgs) -> Result<()> {
    let stop = on_signal();
    let cluster = LocalCluster::start(&args, stop).await?;
    announce(&format!("ready grpc={} http={}", cluster.grpc_address(), cluster.http_address()))?;
    cluster.finished().await
}

/// `tessera shard-worker`
pub(crate) async fn shard_worker(args: ShardWorkerArgs) -> Result<()> {
    let stop = on_signal();
    let registry = settings::registry(&args.member.registry)?;
    let Identity { id, advertise, drain } = Identity::new("worker", &args.member.identity, args.listen)?;
    let tls = settings::tls(&args.member.tls);
    let config = settings::shard_worker(&args.compute, args.listen, (0, 1), args.member.registry.lease())?;
    let worker = ShardWorker::bind(tessera_shard_worker::Config { id, advertise, drain, tls, ..config }).await?;
    let health = worker.health();
    let status = status(args.member.status, move || health.problem().map(str::to_owned)).await?;
    announce(&format!("ready listen={}{}", worker.record().address, status.line))?;
    Ok(worker.run(registry, stop).await?)
}

/// `tessera coordinator`
pub(crate) async fn coordinator(args: CoordinatorArgs) -> Result<()> {
    let stop = on_signal();
    let model = Model::new(&args.model)?;
    // What its workers compute on they say themselves.
    settings::check_fp8(&args.replica, None)?;
    let tls = settings::tls(&args.member.tls);
    let registry = settings::registry(&args.member.registry)?;
    let by_hand = registry.is_none();
    let (given, needed) = (args.workers.len(), usize::from(args.replica.tp));
    ensure!(
        !by_hand || given >= needed,
        "{given} workers are given for --tp {needed}: name each with --worker, or say with --registry where the cluster meets"
    );
    let registry = registry.unwrap_or_else(|| Registry::new(MemoryStore::new()));
    let _members = if by_hand { Some(static_workers(&registry, &args.workers, tls.is_some()).await?) } else { None };
    let Identity { id: replica, advertise, drain } = Identity::new("replica", &args.member.identity, args.listen)?;
    let mut config = settings::coordinator(&args.replica, &model, args.listen);
    (config.timeouts.lease, config.timeouts.drain) = (args.member.registry.lease(), drain);
    let coordinator = Coordinator::bind(tessera_coordinator::Config { replica, advertise, tls, ..config }, registry).await?;
    let (address, group, health) = (coordinator.uri(), coordinator.group(), coordinator.health());
    let seen = group.clone();
    let status = status(args.member.status, move || coordinator_problem(&seen.borrow(), &health)).await?;
    let ready = async {
        // With a registry it may be a spare for days: it is ready when it may be found.
        if by_hand {
            progress::until_ready(group, true).await?;
        }
        announce(&format!("ready listen={address}{}", status.line))?;
        // The coordinator's own end is what counts from here.
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        biased;
        ended = coordinator.run(stop) => Ok(ended?),
        failed = ready => failed,
    }
}

/// `tessera router`
pub(crate) async fn router(args: RouterArgs) -> Result<()> {
    let stop = on_signal();
    let model = Model::new(&args.model)?;
    let tls = settings::tls(&args.tls);
    let registry = settings::registry(&args.registry)?;
    let by_hand = registry.is_none();
    ensure!(
        !by_hand || !args.replicas.is_empty(),
        "name a coordinator with --replica, or say with --registry where the cluster meets"
    );
    let registry = registry.unwrap_or_else(|| Registry::new(MemoryStore::new()));
    let _members =
        if by_hand { Some(static_replicas(&registry, &args.replicas, &model.name, tls.is_some()).await?) } else { None };
    let config = RouterConfig { tls, ..settings::router(&args.front, &model, None)? };
    let router = tessera_router::run(config, registry, stop).await?;
    announce(&format!("ready grpc={} http={}", router.grpc_uri(), router.http_uri()))?;
    Ok(router.finished().await?)
}

/// A status server that runs until this is dropped.
struct Status {
    /// How the line that says ready goes on.
    line: String,
    _stop: Option<DropGuard>,
}

/// Serves the status where an address is given for it; `problem` says what keeps the role from serving.
async fn status(address: Option<SocketAddr>, problem: impl Fn() -> Option<String> + Send + Sync + 'static) -> Result<Status> {
    let Some(address) = address else { return Ok(Status { line: String::new(), _stop: None }) };
    let (bound, stop) = (bind(address).await?, CancellationToken::new());
    let line = format!(" status={}", bound.uri(None));
    tokio::spawn(serve_status(bound, problem, stop.clone()));
    Ok(Status { line, _stop: Some(stop.drop_guard()) })
}

/// A coordinator that stands by for workers is as ready as it can be.
fn coordinator_problem(group: &GroupState, health: &Health) -> Option<String> {
    match (health.problem(), group) {
        (None, _) | (Some("starting"), GroupState::Waiting { .. }) => None,
        (Some(_), GroupState::Lost { problem, .. }) => Some(problem.clone()),
        (Some(problem), _) => Some(problem.to_owned()),
    }
}

/// Workers known by address alone.
async fn static_workers(registry: &Registry, addresses: &[String], tls: bool) -> Result<Kept> {
    let lease = registry.lease(STATIC).await?;
    for address in addresses {
        let uri = uri(address, tls);
        let record = WorkerRecord {
            id: address.clone(),
            // Ranks behind one host name share that host's memory.
            host: host_of(&uri)?,
            address: uri,
            device: "cpu".into(),
            memory_bytes: 0,
            fingerprint: None,
            state: WorkerState::Ready,
            instance: 0,
        };
        registry.put_worker(lease.id(), &record).await?;
    }
    Ok(lease)
}

/// Replicas known by address alone; how they are, the router asks them.
async fn static_replicas(registry: &Registry, addresses: &[String], model: &str, tls: bool) -> Result<Kept> {
    let lease = registry.lease(STATIC).await?;
    for address in addresses {
        let (id, address, model) = (address.clone(), uri(address, tls), model.to_owned());
        registry.put_replica(lease.id(), &ReplicaRecord { id, address, model, ready: true, ..Default::default() }).await?;
    }
    Ok(lease)
}

fn uri(address: &str, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") }
}

fn host_of(uri: &str) -> Result<String> {
    let parsed: tonic::transport::Uri = uri.parse().with_context(|| format!("`{uri}` is not an address"))?;
    Ok(parsed.host().with_context(|| format!("`{uri}` names no host"))?.to_owned())
}

/// One line on standard output, for scripts that wait for it.
fn announce(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}
