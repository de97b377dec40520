//! The roles as processes of their own, and all of them as one.

use std::{
    io::{Write, stdout},
    time::Duration,
};

use anyhow::{Context, Result};
use tessera_coordinator::Coordinator;
use tessera_registry::{Kept, MemoryStore, Registry, ReplicaRecord, WorkerRecord, WorkerState};
use tessera_service::on_signal;
use tessera_shard_worker::ShardWorker;

use crate::{
    cli::{CoordinatorArgs, RouterArgs, ShardWorkerArgs, UpArgs},
    cluster::LocalCluster,
    progress,
    settings::{self, Model},
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
    let worker = ShardWorker::bind(settings::shard_worker(&args.compute, args.listen, 1)).await?;
    announce(&format!("ready listen=http://{}", worker.address()))?;
    Ok(worker.run(None, stop).await?)
}

/// `tessera coordinator`
pub(crate) async fn coordinator(args: CoordinatorArgs) -> Result<()> {
    let stop = on_signal();
    let model = Model::new(&args.model)?;
    let registry = Registry::new(MemoryStore::new());
    let _members = static_workers(&registry, &args.workers).await?;
    let coordinator = Coordinator::bind(settings::coordinator(&args.replica, &model, args.listen), registry).await?;
    let (address, group) = (coordinator.address(), coordinator.group());
    let ready = async {
        progress::until_ready(group).await?;
        announce(&format!("ready listen=http://{address}"))?;
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
    let registry = Registry::new(MemoryStore::new());
    let _members = static_replicas(&registry, &args.replicas, &model.name).await?;
    let router = tessera_router::run(settings::router(&args.front, &model, None)?, registry, stop).await?;
    announce(&format!("ready grpc=http://{} http=http://{}", router.grpc, router.http))?;
    Ok(router.finished().await?)
}

/// Workers known by address alone.
async fn static_workers(registry: &Registry, addresses: &[String]) -> Result<Kept> {
    let lease = registry.lease(STATIC).await?;
    for address in addresses {
        let uri = uri(address);
        let record = WorkerRecord {
            id: address.clone(),
            // Ranks behind one host name share that host's memory.
            host: host_of(&uri)?,
            address: uri,
            device: "cpu".into(),
            memory_bytes: 0,
            fingerprint: None,
            state: WorkerState::Ready,
        };
        registry.put_worker(lease.id(), &record).await?;
    }
    Ok(lease)
}

/// Replicas known by address alone; how they are, the router asks them.
async fn static_replicas(registry: &Registry, addresses: &[String], model: &str) -> Result<Kept> {
    let lease = registry.lease(STATIC).await?;
    for address in addresses {
        let (id, address, model) = (address.clone(), uri(address), model.to_owned());
        registry.put_replica(lease.id(), &ReplicaRecord { id, address, model, ready: true, ..Default::default() }).await?;
    }
    Ok(lease)
}

fn uri(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
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
