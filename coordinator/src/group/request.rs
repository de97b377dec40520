//! What a rank is asked to load, and how it meets the others.

use std::{net::SocketAddr, time::Duration};

use tessera_proto::internal::{
    self as wire, collective::Transport as WireTransport, model_source, shard_worker_client::ShardWorkerClient,
};
use tessera_registry::WorkerRecord;
use tessera_types::Epoch;
use tokio::time::timeout;
use tonic::{Status, transport::Uri};

use super::{FormError, Member, RankError};
use crate::config::{Config, ModelSource, Transport};

/// How long a worker may take to make an id: it may have to load the library first.
const ID: Duration = Duration::from_secs(12);

/// What a rank is to hold.
pub(super) fn weights(config: &Config, rank: usize, tp: usize) -> Result<wire::LoadRequest, FormError> {
    let source = match &config.source {
        ModelSource::Folder(folder) => model_source::Source::Folder(folder.clone()),
        ModelSource::Dummy { spec, seed } => {
            let model_spec = serde_json::to_string(spec).map_err(|error| FormError::Shape(error.to_string()))?;
            model_source::Source::Dummy(wire::DummyModel { model_spec, seed: *seed })
        }
    };
    Ok(wire::LoadRequest {
        rank: rank as u32,
        tp: tp as u32,
        model: Some(wire::ModelSource { source: Some(source) }),
        dtype: config.dtype.clone(),
        vision_parallel: config.vision_parallel.to_string(),
        quantization: config.quantization.clone(),
        kv_cache_dtype: config.kv_cache_dtype.clone(),
        ..Default::default()
    })
}

/// What a member is asked to load, and how it meets the others.
pub(super) fn request(
    config: &Config,
    member: &Member,
    epoch: Epoch,
    tp: usize,
    collective: &wire::Collective,
) -> Result<wire::LoadRequest, FormError> {
    Ok(wire::LoadRequest {
        epoch: epoch.0,
        kv_blocks: config.kv_blocks.unwrap_or(0),
        max_context: config.max_context.unwrap_or(0),
        collective: Some(collective.clone()),
        ..weights(config, usize::from(member.rank.0), tp)?
    })
}

/// What joins the members. Ranks on GPUs meet by NCCL whatever the configuration says, since nothing else joins their
/// memory.
pub(super) async fn collective(config: &Config, members: &[Member], epoch: Epoch) -> Result<wire::Collective, FormError> {
    let group = config.replica.clone();
    let deadline_ms = config.timeouts.collective.as_millis() as u64;
    if let [first, _, ..] = members
        && members.iter().all(|member| member.worker.device_kind() == "cuda")
    {
        let nccl_id = new_id(config, first, epoch, members.len()).await?;
        return Ok(wire::Collective { transport: WireTransport::Nccl.into(), group, deadline_ms, nccl_id, ..Default::default() });
    }
    let one_host = members.iter().all(|member| member.worker.host == members[0].worker.host);
    let tcp = match config.transport {
        Transport::Auto => !one_host,
        Transport::Shm => false,
        Transport::Tcp => true,
    };
    let mut addresses = Vec::new();
    for member in members.iter().filter(|_| tcp) {
        addresses.push(rank_address(&member.worker, config.timeouts.call).await?.to_string());
    }
    Ok(wire::Collective {
        transport: if tcp { WireTransport::Tcp } else { WireTransport::Shm }.into(),
        group,
        addresses,
        deadline_ms,
        ..Default::default()
    })
}

/// Under which name ranks meet by NCCL, made by rank 0. An id that no group meets under costs its worker, so that it is made
/// only where rank 0 finds nothing wrong with the model.
async fn new_id(config: &Config, first: &Member, epoch: Epoch, tp: usize) -> Result<bytes::Bytes, FormError> {
    let mut client = ShardWorkerClient::new(first.channel.clone());
    let wire::LoadRequest { model, tp, .. } = weights(config, 0, tp)?;
    let made = timeout(ID, client.new_collective_id(wire::NewCollectiveIdRequest { epoch: epoch.0, model, tp })).await;
    let made = made.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no id for NCCL within {ID:?}"))));
    let failed = |status: Status| FormError::Load { ranks: vec![RankError::new(first, &status)] };
    Ok(made.map_err(failed)?.into_inner().id)
}

/// Where a rank meets the others by TCP.
async fn rank_address(worker: &WorkerRecord, bound: Duration) -> Result<SocketAddr, FormError> {
    let problem =
        |problem: &str| FormError::Address { worker: worker.id.clone(), problem: format!("{}: {problem}", worker.address) };
    let uri: Uri = worker.address.parse().map_err(|_| problem("is not an address"))?;
    let (host, port) = uri.host().zip(uri.port_u16()).ok_or_else(|| problem("has no host and port"))?;
    let port = port.checked_add(Config::TCP_PORT_OFFSET).ok_or_else(|| problem("has too high a port"))?;
    let host = host.trim_matches(['[', ']']);
    let found = timeout(bound, tokio::net::lookup_host((host, port))).await;
    let mut found = found.map_err(|_| problem("was not resolved in time"))?.map_err(|error| problem(&error.to_string()))?;
    found.next().ok_or_else(|| problem("resolves to nothing"))
}

#[cfg(test)]
mod tests {
    use tessera_types::VisionParallel;

    use super::*;

    fn usual() -> Config {
        Config::new("replica", SocketAddr::from(([127, 0, 0, 1], 0)), "a", ModelSource::Folder("/models/a".into()), 2)
    }

    #[test]
    fn all_ranks_are_asked_to_keep_weights_and_cache_as_the_replica_is_to() {
        let config = Config { quantization: "fp8".into(), kv_cache_dtype: "fp8".into(), ..usual() };
        for rank in 0..2 {
            let asked = weights(&config, rank, 2).unwrap();
            assert_eq!([&*asked.dtype, &*asked.quantization, &*asked.kv_cache_dtype], ["bf16", "fp8", "fp8"]);
        }
    }

    #[test]
    fn ranks_are_asked_to_share_images_as_the_replica_is_to() {
        for vision_parallel in VisionParallel::ALL {
            let config = Config { vision_parallel, ..usual() };
            assert_eq!(weights(&config, 1, 2).unwrap().vision_parallel.parse(), Ok(vision_parallel));
        }
    }
}
