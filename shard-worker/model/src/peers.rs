//! How the ranks' devices become peers: what each offers goes round, and all reach all and have proven it, or none does.

use std::time::Duration;

use tessera_collective::CollectiveError;
use tessera_device::{Device, DeviceError, PeerFailure, PeerOffer, PeerStop};
use tracing::info;

use crate::ModelError;
use crate::ranks::{Ranks, words};

/// Numbers of a sum by which that is proven.
const NUMBERS: usize = 32 << 10;

/// Connects the group's devices; whether they are peers now, which all ranks agree on.
pub(crate) fn connect<D: Device>(ranks: &mut Ranks, device: &D) -> Result<bool, ModelError> {
    let Some(limit) = ranks.collective().deadline().filter(|_| ranks.size() > 1) else { return Ok(false) };
    let offer = device.offer_peers().map_err(|error| error.to_string());
    let offers = exchange(ranks, device, offer.as_ref().unwrap_or(&PeerOffer::NONE).words())?;
    let offers: Vec<PeerOffer> = offers.chunks_exact(PeerOffer::WORDS).map(PeerOffer::from_words).collect();
    let connected = offer.and_then(|_| reach(device, ranks.rank().0.into(), &offers, limit));
    let stop = agreed(ranks, device, connected)?;
    let proven = match stop {
        Ok(stop) => {
            ranks.collective().abort_handle().on_abort(stop);
            let right = sums_are_right(ranks, device);
            agreed(ranks, device, right)?
        }
        Err(why) => Err(why),
    };
    let (rank, ranks) = (ranks.rank(), ranks.size());
    match &proven {
        Ok(()) => info!(%rank, ranks, "small sums over ranks go through the GPUs' own memory"),
        Err(why) => {
            device.part_from_peers();
            info!(%rank, ranks, why, "all sums over ranks go through NCCL");
        }
    }
    Ok(proven.is_ok())
}

/// What this rank has come to, if all have come to it.
fn agreed<D: Device, T>(ranks: &mut Ranks, device: &D, own: Result<T, String>) -> Result<Result<T, String>, ModelError> {
    let all = exchange(ranks, device, &[u32::from(own.is_ok())])?;
    Ok(match all.iter().position(|came| *came == 0) {
        Some(other) => own.and(Err(format!("rank {other} does not reach all others"))),
        None => own,
    })
}

/// Adds known numbers in both kinds of tensors, twice each: a driver may say that devices reach each other where what they write
/// is lost, or comes late.
fn sums_are_right<D: Device>(ranks: &mut Ranks, device: &D) -> Result<(), String> {
    let failed = |error: DeviceError| error.to_string();
    let (rank, size) = (usize::from(ranks.rank().0), ranks.size());
    // Whole numbers that no kind of number rounds.
    let own: Vec<f32> = (0..NUMBERS).map(|at| (at % 7 + rank) as f32).collect();
    let sums: Vec<f32> = (0..NUMBERS).map(|at| (at % 7 * size + size * (size - 1) / 2) as f32).collect();
    for turn in 0..4 {
        let make = if turn % 2 == 0 { D::tensor } else { D::working };
        let mut values = make(device, 1, NUMBERS).map_err(failed)?;
        device.write(&mut values, &own).map_err(failed)?;
        device.sum_over_peers(&mut values).map_err(failed)?;
        ranks.settle(device).map_err(|error| error.to_string())?;
        if device.read(&values).map_err(failed)? != sums {
            return Err("sums through the GPUs' memory come out wrong".into());
        }
    }
    Ok(())
}

fn reach<D: Device>(device: &D, rank: usize, offers: &[PeerOffer], limit: Duration) -> Result<PeerStop, String> {
    match offers.iter().position(|offer| *offer == PeerOffer::NONE) {
        Some(other) => Err(format!("rank {other} offers nothing to reach")),
        None => device.connect_peers(rank, offers, limit).map_err(|error| error.to_string()),
    }
}

/// All ranks' words in rank order.
fn exchange<D: Device>(ranks: &mut Ranks, device: &D, own: &[u32]) -> Result<Vec<u32>, ModelError> {
    let whole = ranks.all_gather(device, words(device, own.iter().copied())?)?;
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
