//! Whether each rank lives: asked at a steady pace, whether steps run or not.
//!
//! A process that was stopped or cut off does not answer; one that is merely slow does, and its progress moves.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tessera_proto::internal::{self as wire, shard_worker_client::ShardWorkerClient};
use tessera_service::reason;
use tessera_types::{Epoch, Rank};
use tokio::time::{sleep, timeout};

use super::Member;
use crate::config::Timeouts;

/// What a rank says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    /// Counts what its steps have got through.
    pub(super) progress: u64,
    /// It wants to leave.
    pub(super) draining: bool,
}

/// A rank's beats, or why there are none.
pub(super) type Pulse = BoxStream<'static, (Rank, Result<Beat, String>)>;

/// Asks a rank for ever.
pub(super) fn pulse(member: &Member, epoch: Epoch, timeouts: Timeouts) -> Pulse {
    let client = ShardWorkerClient::new(member.channel.clone());
    let rank = member.rank;
    stream::unfold(client, move |mut client| async move {
        sleep(timeouts.pulse).await;
        let beat = beat(&mut client, epoch, timeouts.silence).await;
        Some(((rank, beat), client))
    })
    .boxed()
}

async fn beat(
    client: &mut ShardWorkerClient<tonic::transport::Channel>,
    epoch: Epoch,
    silence: Duration,
) -> Result<Beat, String> {
    let status = match timeout(silence, client.get_status(wire::GetStatusRequest {})).await {
        Ok(Ok(status)) => status.into_inner(),
        Ok(Err(status)) => return Err(format!("{}: {}", status.code(), reason(&status))),
        Err(_) => return Err(format!("says nothing for {silence:?}")),
    };
    if status.epoch != epoch.0 || status.rank.is_none() {
        return Err(format!("has left the group for epoch {}", status.epoch));
    }
    Ok(Beat { progress: status.progress, draining: status.draining })
}
