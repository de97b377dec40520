//! Who is there and what they say: asked by way of the registry, or one by one.

use std::time::Duration;

use futures::future::join_all;
use tessera_proto::internal::{self as wire, coordinator_client::CoordinatorClient, shard_worker_client::ShardWorkerClient};
use tessera_registry::{Membership, ReplicaRecord, WorkerRecord, WorkerState};
use tessera_service::{Tls, peer};
use tokio::time::timeout;

/// A role that does not answer within this is shown as silent.
const CALL: Duration = Duration::from_secs(2);

/// A replica as registered, and what it says.
pub(super) type Replica = (ReplicaRecord, Option<wire::GetInfoResponse>);
/// A worker as registered, who has claimed it, and what it says.
pub(super) type Worker = (WorkerRecord, Option<String>, Option<wire::GetStatusResponse>);

/// Everyone who is there, with what they say.
pub(super) struct Cluster {
    pub(super) replicas: Vec<Replica>,
    pub(super) workers: Vec<Worker>,
}

impl Cluster {
    /// Asks everyone who is registered.
    pub(super) async fn ask(members: Membership, tls: Option<&Tls>) -> Self {
        let replicas = join_all(members.replicas.into_values().map(|record| async {
            let info = replica_info(&record.address, tls).await;
            (record, info)
        }));
        let claims = &members.claims;
        let workers = join_all(members.workers.into_values().map(|record| async {
            let status = worker_status(&record.address, tls).await;
            let holder = claims.get(&record.id).map(|claim| claim.replica.clone());
            (record, holder, status)
        }));
        let (replicas, workers) = tokio::join!(replicas, workers);
        Self { replicas, workers }
    }

    /// Asks processes by their addresses. One that does not answer is shown as a silent replica.
    pub(super) async fn at(addresses: &[String], tls: Option<&Tls>) -> Self {
        let asked = join_all(addresses.iter().map(|address| async move {
            let (info, status) = tokio::join!(replica_info(address, tls), worker_status(address, tls));
            (address, info, status)
        }));
        let (mut replicas, mut workers) = (Vec::new(), Vec::new());
        for (address, info, status) in asked.await {
            match status {
                Some(status) => workers.push((worker(address, &status), None, Some(status))),
                None => replicas.push((replica(address, info.as_ref()), info)),
            }
        }
        // Nobody but its replica knows whose a worker is.
        for (record, holder, _) in &mut workers {
            let has = |(_, info): &&Replica| info.as_ref().is_some_and(|info| info.workers.contains(&record.id));
            *holder = replicas.iter().find(has).map(|(replica, _)| replica.id.clone());
        }
        Self { replicas, workers }
    }
}

/// What would be registered of a replica, by its own word.
fn replica(address: &str, info: Option<&wire::GetInfoResponse>) -> ReplicaRecord {
    let told = info.cloned().unwrap_or_default();
    let id = if told.replica.is_empty() { address.to_owned() } else { told.replica };
    let (epoch, ready, draining) = (told.epoch, told.ready, told.draining);
    ReplicaRecord { id, address: address.to_owned(), model: told.model, epoch, ready, draining, ..Default::default() }
}

/// What would be registered of a worker, by its own word.
fn worker(address: &str, status: &wire::GetStatusResponse) -> WorkerRecord {
    WorkerRecord {
        id: status.worker_id.clone(),
        address: address.to_owned(),
        device: status.device.clone(),
        memory_bytes: 0,
        host: "-".into(),
        fingerprint: None,
        state: if status.draining { WorkerState::Draining } else { WorkerState::Ready },
        instance: 0,
    }
}

async fn replica_info(address: &str, tls: Option<&Tls>) -> Option<wire::GetInfoResponse> {
    let mut client = CoordinatorClient::new(peer(address, tls).ok()?);
    let info = timeout(CALL, client.get_info(wire::GetInfoRequest {})).await.ok()?.ok()?;
    Some(info.into_inner())
}

async fn worker_status(address: &str, tls: Option<&Tls>) -> Option<wire::GetStatusResponse> {
    let mut client = ShardWorkerClient::new(peer(address, tls).ok()?);
    let status = timeout(CALL, client.get_status(wire::GetStatusRequest {})).await.ok()?.ok()?;
    Some(status.into_inner())
}
