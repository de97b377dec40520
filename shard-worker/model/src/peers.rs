//! How the ranks' devices become peers: what each offers goes round, and all reach all, or none does.

use std::time::Duration;

use tessera_collective::CollectiveError;
use tessera_device::{Device, PeerFailure, PeerOffer, PeerStop};
use tracing::info;

use crate::ModelError;
use crate::ranks::Ranks;

/// Connects the group's devices; whether they are peers now, which all ranks agree on.
pub(crate) fn connect<D: Device>(ranks: &mut Ranks, device: &D) -> Result<bool, ModelError> {
    let Some(limit) = ranks.collective().deadline().filter(|_| ranks.size() > 1) else { return Ok(false) };
    let offer = device.offer_peers().map_err(|error| error.to_string());
    let offers = exchange(ranks, device, offer.as_ref().unwrap_or(&PeerOffer::NONE).words())?;
    let offers: Vec<PeerOffer> = offers.chunks_exact(PeerOffer::WORDS).map(PeerOffer::from_words).collect();
    let connected = offer.and_then(|_| reach(device, ranks.rank().0.into(), &offers, limit));
    let agreed = exchange(ranks, device, &[u32::from(connected.is_ok())])?;
    let why = match (connected, agreed.iter().position(|connected| *connected == 0)) {
        (Ok(stop), None) => {
            ranks.collective().abort_handle().on_abort(stop);
            info!(rank = %ranks.rank(), ranks = ranks.size(), "small sums over ranks go through the GPUs' own memory");
            return Ok(true);
        }
        (Ok(_), Some(other)) => format!("rank {other} does not reach all others"),
        (Err(why), _) => why,
    };
    device.part_from_peers();
    info!(rank = %ranks.rank(), ranks = ranks.size(), why, "all sums over ranks go through NCCL");
    Ok(false)
}

fn reach<D: Device>(device: &D, rank: usize, offers: &[PeerOffer], limit: Duration) -> Result<PeerStop, String> {
    match offers.iter().position(|offer| *offer == PeerOffer::NONE) {
        Some(other) => Err(format!("rank {other} offers nothing to reach")),
        None => device.connect_peers(rank, offers, limit).map_err(|error| error.to_string()),
    }
}

/// All ranks' words in rank order. They travel as the bits of f32, which nobody looks at.
fn exchange<D: Device>(ranks: &mut Ranks, device: &D, words: &[u32]) -> Result<Vec<u32>, ModelError> {
    let mut part = device.tensor(1, words.len())?;
    let bits: Vec<f32> = words.iter().copied().map(f32::from_bits).collect();
    device.write(&mut part, &bits)?;
    let whole = ranks.all_gather(device, part)?;
    ranks.settle(device)?;
    Ok(whole.into_host(device)?.into_iter().map(f32::to_bits).collect())
}

/// What it means for the group that a sum came to nothing.
pub(crate) fn lost(failure: PeerFailure, deadline: Option<Duration>) -> CollectiveError {
    match failure {
        PeerFailure::Stopped => CollectiveError::Aborted,
        PeerFailure::Gone => CollectiveError::SomeoneLost("a rank stopped waiting for the others in a sum".into()),
        PeerFailure::Late => {
            let deadline_ms = deadline.unwrap_or_default().as_millis() as u64;
            CollectiveError::Overdue { operation: "the sum over ranks", deadline_ms }
        }
    }
}
