//! Ranks on GPUs, of one host or many, over NCCL.
//!
//! A thin layer over the C interface that keeps what the other transports promise: no wait without a deadline, a lost
//! rank is an error, and another thread can end all of it. So the communicator is non-blocking; every call is polled
//! until NCCL has posted it; and whatever goes wrong aborts the communicator on a thread of its own (`communicator`).
//! A kernel that waits for a dead rank's data ends only by that, and where even that hangs, the process does
//! ([`LastResort`](crate::LastResort)). Aborting ends what runs at once, but does not return before all graphs that
//! captured operations of the communicator are destroyed, so who holds some must part with them as soon as it is told.
//!
//! Host memory is refused: NCCL moves memory of devices, and a caller that has numbers on the host knows best which of
//! its device buffers they can go through.
//!
//! NCCL reads its own settings from the environment of the process, among them:
//!
//! | variable | what for |
//! | --- | --- |
//! | `NCCL_DEBUG` | `WARN` or `INFO`: says on stdout which transports and devices it chose, and why something failed |
//! | `NCCL_SOCKET_IFNAME` | network interfaces for meeting, and for data without InfiniBand: `eth0`, `^docker,lo` |
//! | `NCCL_IB_HCA` | InfiniBand or RoCE adapters: `mlx5_0,mlx5_1`; `NCCL_IB_DISABLE=1` for none |
//! | `NCCL_P2P_LEVEL` | how far apart two GPUs may be to reach each other directly: `NVL`, `PIX`, `PHB`, `SYS`, `LOC` for never |
//! | `NCCL_SHM_DISABLE` | `1` where processes of one host do not share `/dev/shm`, as containers may not |
//! | `NCCL_HOSTID` | what tells hosts apart; a different one for each rank lets several ranks share one GPU, to test |
//!
//! They must be alike on all ranks but for `NCCL_HOSTID`. Small sums may go round NCCL, through memory that the devices reach in each
//! other; that is their own affair (`tessera_device::Device::sum_over_peers`), and the launcher's `--no-peer-sums` turns it off.

#![expect(unsafe_code, reason = "calls of a C library")]

mod communicator;
mod library;
#[cfg(test)]
mod tests;

use std::{
    ffi::c_int,
    sync::{Arc, Weak},
    time::Duration,
};

use cudarc::nccl::sys::{cudaStream_t, ncclComm_t};
use tessera_types::{DeviceSlice, Rank};

use crate::{
    AbortHandle, Collective, CollectiveError, GroupConfig,
    call::Call,
    watch::{until_idle, watch},
};
use communicator::{Communicator, State};
use library::{Library, data_type, library};

/// Bytes of an id.
pub const NCCL_ID_BYTES: usize = 128;

/// Under which the ranks of a group meet; made by one of them, and good for one group.
pub type NcclId = [u8; NCCL_ID_BYTES];

/// Makes an id. The process that makes it is where the ranks meet, so it should be one of theirs; it keeps a socket and a
/// sleeping thread until all of them have come.
///
/// # Errors
/// `Missing` without an NCCL that will do, `Library` when it fails.
pub fn nccl_id() -> Result<NcclId, CollectiveError> {
    library()?.new_id()
}

/// The collective of one rank on a GPU.
pub(crate) struct Nccl {
    rank: usize,
    size: usize,
    deadline: Duration,
    communicator: Arc<Communicator>,
    abort: AbortHandle,
}

impl Nccl {
    /// Joins the group on the device whose context is current; returns when every rank is there.
    pub(crate) fn join(config: &GroupConfig, id: &NcclId, abort: AbortHandle) -> Result<Self, CollectiveError> {
        Self::join_by(library()?, config, id, abort)
    }

    fn join_by(
        library: &'static Library,
        config: &GroupConfig,
        id: &NcclId,
        abort: AbortHandle,
    ) -> Result<Self, CollectiveError> {
        let (rank, size) = (usize::from(config.rank.0), config.size);
        let communicator = Communicator::begin(library, id, rank, size, abort.last_resort())?;
        let nccl = Self { rank, size, deadline: config.deadline, communicator, abort };
        let communicator = Arc::downgrade(&nccl.communicator);
        nccl.abort.on_abort(move || {
            if let Some(communicator) = Weak::upgrade(&communicator) {
                communicator.end();
            }
        });
        nccl.together(|nccl| nccl.until_posted("join"))?;
        Ok(nccl)
    }

    /// Runs an operation. A rank that failed leaves the group: the others would wait for it in vain.
    fn together(&self, operation: impl FnOnce(&Self) -> Result<(), CollectiveError>) -> Result<(), CollectiveError> {
        let done = self.abort.check().and_then(|()| operation(self));
        done.inspect_err(|_| self.communicator.end())
    }

    /// Enqueues what `call` does; returns when it is on the stream, so that what the caller enqueues next comes after it.
    fn enqueue(&self, operation: &'static str, call: impl FnOnce(ncclComm_t) -> c_int) -> Result<(), CollectiveError> {
        self.together(|nccl| match nccl.communicator.call(operation, call)? {
            State::Posted => Ok(()),
            State::Posting => nccl.until_posted(operation),
        })
    }

    fn until_posted(&self, operation: &'static str) -> Result<(), CollectiveError> {
        watch(self.deadline, operation, || Ok(self.state(operation)? == State::Posted))
    }

    /// Whether the group still stands, and what it is at.
    fn state(&self, operation: &'static str) -> Result<State, CollectiveError> {
        self.abort.check()?;
        self.communicator.state(operation)
    }
}

impl Collective for Nccl {
    fn rank(&self) -> Rank {
        Rank(self.rank as u16)
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&mut self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        Err(CollectiveError::Memory { operation: "all-reduce", joins: "device" })
    }

    fn all_gather(&mut self, _part: &[f32], _whole: &mut [f32]) -> Result<(), CollectiveError> {
        Err(CollectiveError::Memory { operation: "all-gather", joins: "device" })
    }

    fn broadcast(&mut self, _root: Rank, _bytes: &mut [u8]) -> Result<(), CollectiveError> {
        Err(CollectiveError::Memory { operation: "broadcast", joins: "device" })
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn leave(&mut self, is_idle: &mut dyn FnMut() -> Result<bool, String>) {
        self.abort.abort();
        self.communicator.end();
        self.communicator.wait_for_end();
        until_idle(&self.abort.last_resort(), is_idle);
    }

    fn joins_devices(&self) -> bool {
        true
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.deadline)
    }

    fn all_reduce_device(&mut self, values: DeviceSlice) -> Result<(), CollectiveError> {
        let library = self.communicator.library();
        self.enqueue("all-reduce", |communicator| {
            let (at, count) = (values.address as *mut _, values.numbers);
            // SAFETY: the communicator lives while `call` runs this; whoever made the slice answers for its memory and stream.
            unsafe { library.sum(at, count, data_type(values.dtype), communicator, stream(values)) }
        })
    }

    fn all_gather_device(&mut self, part: DeviceSlice, whole: DeviceSlice) -> Result<(), CollectiveError> {
        if part.numbers * self.size != whole.numbers || part.dtype != whole.dtype || part.stream != whole.stream {
            return Err(CollectiveError::Mismatch(format!("{} parts {part:?} do not fill {whole:?}", self.size)));
        }
        let library = self.communicator.library();
        self.enqueue("all-gather", |communicator| {
            let (from, to, count) = (part.address as *const _, whole.address as *mut _, part.numbers);
            // SAFETY: as for `all_reduce_device`; the whole has room for every rank's part.
            unsafe { library.gather(from, to, count, data_type(part.dtype), communicator, stream(part)) }
        })
    }

    fn broadcast_device(&mut self, root: Rank, values: DeviceSlice) -> Result<(), CollectiveError> {
        Call::broadcast(self.size, root.0.into(), values.bytes())?;
        let library = self.communicator.library();
        self.enqueue("broadcast", |communicator| {
            let (at, count) = (values.address as *mut _, values.numbers);
            // SAFETY: as for `all_reduce_device`; the root is one of the ranks.
            unsafe { library.broadcast(at, count, data_type(values.dtype), root.0.into(), communicator, stream(values)) }
        })
    }

    fn watch(&mut self, done: &mut dyn FnMut() -> Result<bool, String>) -> Result<(), CollectiveError> {
        self.together(|nccl| {
            watch(nccl.deadline, "the work on the device", || {
                let is_done = done().map_err(CollectiveError::Device)?;
                // Work that was aborted looks done, so what is wrong is asked after.
                nccl.state("the work on the device")?;
                Ok(is_done)
            })
        })
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // The other ranks must not wait for this one, and whoever has let go of the collective may free the buffers.
        self.abort.abort();
        self.communicator.end();
        self.communicator.wait_for_end();
    }
}

fn stream(slice: DeviceSlice) -> cudaStream_t {
    slice.stream as cudaStream_t
}
