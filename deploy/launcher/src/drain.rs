//! `tessera drain`: takes a worker or a replica out of a cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tessera_proto::internal::{self as wire, coordinator_client::CoordinatorClient, shard_worker_client::ShardWorkerClient};
use tessera_registry::Registry;
use tessera_service::{Tls, peer};
use tokio::time::{sleep, timeout};

use crate::{cli::DrainArgs, progress::complain, settings};

/// One call to a role.
const CALL: Duration = Duration::from_secs(5);
/// Between two looks whether it has left.
const LOOK: Duration = Duration::from_millis(200);
/// Beyond the time that its requests may take.
const LEAVE: Duration = Duration::from_secs(60);

/// Asks it to leave and waits until it has.
pub(crate) async fn run(args: DrainArgs) -> Result<()> {
    let registry = settings::named_registry(&args.registry)?;
    let tls = settings::tls(&args.tls).map(Tls::read).transpose()?;
    let (_, members) = registry.members().await.context("cannot read the registry")?;
    if let Some(replica) = members.replicas.get(&args.name) {
        let mut client = CoordinatorClient::new(peer(&replica.address, tls.as_ref())?);
        let request = wire::DrainRequest { timeout_ms: args.timeout.unwrap_or(0) * 1000 };
        timeout(CALL, client.drain(request)).await.context("the replica does not answer")??;
    } else if let Some(worker) = members.workers.get(&args.name) {
        let mut client = ShardWorkerClient::new(peer(&worker.address, tls.as_ref())?);
        timeout(CALL, client.drain(wire::DrainWorkerRequest {})).await.context("the worker does not answer")??;
    } else {
        bail!("`{}` is neither a worker nor a replica; `tessera status` shows who is there", args.name);
    }
    complain(&format!("{} is leaving", args.name));
    let bound = LEAVE + Duration::from_secs(args.timeout.unwrap_or(0));
    timeout(bound, gone(&registry, &args.name)).await.with_context(|| format!("{} has not left yet", args.name))??;
    complain(&format!("{} has left", args.name));
    Ok(())
}

async fn gone(registry: &Registry, name: &str) -> Result<()> {
    loop {
        let (_, members) = registry.members().await?;
        if !members.replicas.contains_key(name) && !members.workers.contains_key(name) {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}
