//! Sums over ranks by a kernel of each, through windows that all devices of a group reach (`cuda/kernels/peer.cuh`).
//!
//! A device has one window, from its first group on, which outlives the device: other processes may still map it when a group
//! has ended. What belongs to a group is where its windows are reached, one of several headers in them, and the word by which the
//! host ends its kernels' waits. What kernels of two groups tell is told apart by a mark that each group agrees on.

use std::{
    env, mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::warn;

use super::{
    CudaDevice, CudaTensor,
    context::{Context, Memory},
    kernel::{Geometry, Kernel, int},
    tensor::Numbers,
    window::{Offered, Reached, Word},
};
use crate::{DeviceError, PeerFailure, PeerOffer, PeerStop};

// As in `cuda/kernels/peer.cuh`.
const RANKS: usize = 8;
const BLOCKS: usize = 32;
const BLOCK_BYTES: usize = 16 << 10;
const HEADER_BYTES: usize = 4096;
const NUMBERS_AT: usize = 64 << 10;
/// Groups take them by turns, so that whoever is late of one does not write where the next group looks.
const HEADERS: usize = NUMBERS_AT / HEADER_BYTES;
const CALL_BITS: u32 = 40;
/// More than the kernels use: the driver shares all that lies in a piece of 2 MiB with the processes that map a part of it ("CUDA
/// Programming Guide", Interprocess Communication).
const WINDOW_BYTES: usize = 2 << 20;
const _: () = assert!(HEADERS * HEADER_BYTES + NUMBERS_AT + 2 * BLOCKS * BLOCK_BYTES <= WINDOW_BYTES);
/// NCCL's word for keeping GPUs out of each other's memory, where that does not work.
const DISABLED: &str = "NCCL_P2P_DISABLE";
const STOPPED: u64 = 1;
const LATE: u64 = 2;
const THREADS: usize = 256;
/// What a thread adds at once.
const RUN_BYTES: usize = 16;

/// Numbers of the header that the host writes: the windows' addresses, whether all is over, and the calls of each block.
const HEADER_WORDS: usize = HEADER_BYTES / size_of::<u64>();
const CALLS: usize = 2 * RANKS;

/// The most bytes that are summed so: every rank reads all ranks' numbers, where a ring reads two parts of them in two trips. Where
/// that costs more than it saves nobody has measured here; vLLM's like it takes up to 512 KiB between four ranks and 256 KiB
/// between eight (`csrc/custom_all_reduce.cuh`), and this is on the safe side of that.
fn most_bytes(ranks: usize) -> usize {
    match ranks {
        ..=2 => BLOCKS * BLOCK_BYTES,
        3..=4 => 256 << 10,
        _ => 128 << 10,
    }
}

/// What a device has for peers.
pub(super) struct Peers {
    is_on: bool,
    context: Arc<Context>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    group: Option<Group>,
    window: Option<Window>,
}

struct Window {
    memory: Memory,
    /// How many groups it was offered to.
    groups: usize,
}

/// Windows of devices that are gone.
static SPARE: Mutex<Vec<Window>> = Mutex::new(Vec::new());

impl Window {
    /// The device's, if it was opened before.
    fn of(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = spare.iter().position(|window| window.memory.is_of(context)) {
            return Ok(spare.swap_remove(at));
        }
        Ok(Self { memory: context.allocate(WINDOW_BYTES, "the window for other GPUs")?, groups: 0 })
    }

    /// Where the header of the last group begins in it.
    fn place(&self) -> usize {
        self.groups % HEADERS * HEADER_BYTES
    }

    /// The same, as the device's kernels reach it.
    fn header(&self) -> u64 {
        self.memory.address() + self.place() as u64
    }
}

/// The peers of one group.
struct Group {
    rank: usize,
    ranks: usize,
    limit: Duration,
    /// The own window, as the kernels reach it.
    own: u64,
    _others: Vec<Reached>,
    stop: Arc<Word>,
}

impl Peers {
    pub(super) fn new(is_on: bool, context: &Arc<Context>) -> Self {
        Self { is_on, context: context.clone(), state: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends what waits.
    fn stop(&self) {
        self.with(|state| state.group.iter().for_each(|group| group.stop.set(STOPPED)));
    }

    /// Parts from a group whose kernels have ended.
    fn part(&self) {
        self.stop();
        let group = self.with(|state| state.group.take());
        if group.is_some() && matches!(self.context.is_idle(), Ok(false)) {
            warn!(device = self.context.name(), "the GPU is still at work; other GPUs' memory stays mapped");
            mem::forget(group);
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop();
        // Kernels that have seen it still tell the others. A device that fails has ended them.
        let _ = self.context.settle();
        self.part();
        let window = self.with(|state| state.window.take());
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).extend(window);
    }
}

impl State {
    fn offer(&mut self, context: &Arc<Context>) -> Result<PeerOffer, DeviceError> {
        let window = match &mut self.window {
            Some(window) => window,
            none => none.insert(Window::of(context)?),
        };
        window.groups += 1;
        Ok(Offered::new(&window.memory, window.place() as u64, context)?.offer())
    }

    fn connect(
        &mut self,
        context: &Arc<Context>,
        rank: usize,
        offers: &[PeerOffer],
        limit: Duration,
    ) -> Result<PeerStop, DeviceError> {
        let window = self.window.as_ref().ok_or_else(|| DeviceError::Peers("nothing was offered".into()))?;
        let ranks = offers.len();
        if !(2..=RANKS).contains(&ranks) || rank >= ranks {
            return Err(DeviceError::Peers(format!("rank {rank} of {ranks}, where 2 to {RANKS} can be peers")));
        }
        let offers: Vec<Offered> = offers.iter().map(Offered::of).collect();
        let mut header = [0_u64; HEADER_WORDS];
        let mut others = Vec::new();
        for (other, offered) in offers.iter().enumerate() {
            header[other] = if other == rank {
                window.header()
            } else {
                let named = |error| DeviceError::Peers(format!("rank {rank} does not reach rank {other}: {error}"));
                let reached = Reached::reach(context, offered).map_err(named)?;
                let address = reached.address;
                others.push(reached);
                address
            };
        }
        let mark = offers.iter().fold(0_u64, |mark, offered| mark.wrapping_add(offered.mark)) << CALL_BITS;
        header[CALLS..CALLS + BLOCKS].fill(mark);
        context.upload(window.header(), &header)?;
        let stop = Arc::new(Word::new(context)?);
        let told = Arc::downgrade(&stop);
        self.group = Some(Group { rank, ranks, limit, own: window.header(), _others: others, stop });
        Ok(Box::new(move || {
            if let Some(stop) = told.upgrade() {
                stop.set(STOPPED);
            }
        }))
    }
}

impl CudaDevice {
    /// See [`crate::Device::offer_peers`].
    pub(super) fn offer_window(&self) -> Result<PeerOffer, DeviceError> {
        if !self.peers.is_on {
            return Err(DeviceError::Peers("turned off".into()));
        }
        if env::var(DISABLED).is_ok_and(|value| value != "0") {
            return Err(DeviceError::Peers(format!("turned off by {DISABLED}")));
        }
        self.peers.with(|state| state.offer(&self.context))
    }

    /// See [`crate::Device::connect_peers`].
    pub(super) fn connect_windows(&self, rank: usize, offers: &[PeerOffer], limit: Duration) -> Result<PeerStop, DeviceError> {
        self.peers.with(|state| state.connect(&self.context, rank, offers, limit))
    }

    /// See [`crate::Device::sum_over_peers`].
    pub(super) fn sum_over_windows(&self, values: &CudaTensor) -> Result<bool, DeviceError> {
        self.peers.with(|state| {
            let Some(group) = state.group.as_ref().filter(|group| values.bytes() <= most_bytes(group.ranks)) else {
                return Ok(false);
            };
            let kernel = match values.numbers {
                Numbers::Full => Kernel::SumOverRanksFull,
                Numbers::Working => Kernel::SumOverRanksWorking,
            };
            let blocks = values.bytes().div_ceil(RUN_BYTES * THREADS).min(BLOCKS);
            let limit = u64::try_from(group.limit.as_nanos()).unwrap_or(u64::MAX);
            let args = [
                values.address().into(),
                int(values.len())?.into(),
                group.own.into(),
                int(group.rank)?.into(),
                int(group.ranks)?.into(),
                group.stop.address().into(),
                limit.into(),
            ];
            self.kernels.launch(kernel, Geometry::rows(blocks, THREADS as u32), &args).map(|()| true)
        })
    }

    /// See [`crate::Device::peer_failure`].
    pub(super) fn window_failure(&self) -> Option<PeerFailure> {
        match self.peers.with(|state| state.group.as_ref().map_or(0, |group| group.stop.get())) {
            0 => None,
            STOPPED => Some(PeerFailure::Stopped),
            LATE => Some(PeerFailure::Late),
            _ => Some(PeerFailure::Gone),
        }
    }

    /// See [`crate::Device::part_from_peers`].
    pub(super) fn part_from_windows(&self) {
        self.peers.part();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_as_the_kernels_have_them() {
        let kernels = include_str!("../../cuda/kernels/peer.cuh");
        for (name, value) in [
            ("int PEERS", RANKS.to_string()),
            ("int PEER_BLOCKS", BLOCKS.to_string()),
            ("int PEER_BYTES", format!("{} << 10", BLOCK_BYTES >> 10)),
            ("int PEER_NUMBERS", format!("{} << 10", NUMBERS_AT >> 10)),
            ("int PEER_CALL_BITS", CALL_BITS.to_string()),
            ("u64 PEER_IS_LATE", LATE.to_string()),
        ] {
            assert!(kernels.contains(&format!("constexpr {name} = {value};")), "{name} = {value}");
        }
    }
}
