//! What joins the ranks of a group.
//!
//! `shm` joins ranks of one host, threads or processes; `tcp` joins hosts; `nccl` joins GPUs. Every rank makes the same
//! calls in the same order. On hosts sums are taken as a binary tree in rank order, so every rank of every degree adds
//! alike (ARCHITECTURE.md, "The same tokens").

mod abort;
mod call;
mod deadline;
mod group;
mod host;
mod last_resort;
mod nccl;
mod pieces;
mod shm;
mod solo;
mod tcp;
mod tree;
mod watch;

pub use abort::AbortHandle;
pub use group::{GroupConfig, Transport, join, join_with};
pub use host::host;
pub use last_resort::LastResort;
pub use nccl::{NCCL_ID_BYTES, NcclId, nccl_id};
pub use solo::Solo;

use std::time::Duration;

use tessera_types::{DeviceSlice, Rank};

/// Why a collective ended without a result. The group is useless afterwards; a new one must be formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// [`AbortHandle::abort`] was called here.
    #[error("the collective was aborted")]
    Aborted,
    /// Another rank is gone: its connection closed, or it said that it aborted.
    #[error("rank {0} left the group")]
    PeerLost(Rank),
    /// Another rank is gone, and the transport does not say which.
    #[error("a rank left the group: {0}")]
    SomeoneLost(String),
    /// No answer within the deadline.
    #[error("rank {rank} did not join {operation} within {deadline_ms} ms")]
    Deadline {
        /// The rank waited for.
        rank: Rank,
        /// The operation.
        operation: &'static str,
        /// The bound that ran out.
        deadline_ms: u64,
    },
    /// Work on a device was not done within the deadline; which rank is behind, the transport does not say.
    #[error("{operation} was not done within {deadline_ms} ms")]
    Overdue {
        /// The operation, or the work on the device.
        operation: &'static str,
        /// The bound that ran out.
        deadline_ms: u64,
    },
    /// Ranks disagree on what they are doing, or a buffer has the wrong size.
    #[error("ranks disagree: {0}")]
    Mismatch(String),
    /// The transport joins the other kind of memory.
    #[error("{operation}: this transport joins memory of the {joins} alone")]
    Memory {
        /// The operation.
        operation: &'static str,
        /// `host` or `device`.
        joins: &'static str,
    },
    /// What the transport needs is not on this machine; the sentence says what, and where it was sought.
    #[error("{0}")]
    Missing(String),
    /// The device failed at what was to be waited for.
    #[error("the device failed: {0}")]
    Device(String),
    /// The transport's library failed.
    #[error("{operation}: {problem}")]
    Library {
        /// The library's function.
        operation: &'static str,
        /// What it said.
        problem: String,
    },
    /// The operating system refused.
    #[error("{context}: {error}")]
    Io {
        /// What was tried.
        context: String,
        /// What came back.
        error: String,
    },
}

/// Operations all ranks make together.
///
/// A transport joins memory of the host or memory of devices. The methods for host memory block the thread that calls
/// until the operation is done. Those for device memory only enqueue on the slices' stream and return, so that they can
/// be captured into a graph; [`Collective::watch`] then waits for the stream. Such graphs must be destroyed before the
/// collective is left or dropped, and soon after it was aborted: NCCL waits for that. Both fail with `Memory` where the
/// transport joins the other kind.
pub trait Collective: Send {
    /// This rank.
    fn rank(&self) -> Rank;

    /// Ranks in the group.
    fn size(&self) -> usize;

    /// Replaces `values` on every rank by the sum over ranks, joined as a binary tree in rank order:
    /// `(r0 + r1) + (r2 + r3)`. Every rank gets the same bits.
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// Every rank gives `part`; `whole` (`size` times as long) gets them in rank order.
    fn all_gather(&mut self, part: &[f32], whole: &mut [f32]) -> Result<(), CollectiveError>;

    /// `bytes` of `root` replace those of every other rank; all have the same length.
    fn broadcast(&mut self, root: Rank, bytes: &mut [u8]) -> Result<(), CollectiveError>;

    /// A handle by which another thread ends a call in progress and all later ones.
    fn abort_handle(&self) -> AbortHandle;

    /// Leaves the group, with nothing left running for it. Later calls fail with `Aborted`. So does dropping it. A transport
    /// that joins devices waits until `is_idle`, a query of the device, says true or fails; the [`LastResort`] follows where it
    /// never does.
    fn leave(&mut self, is_idle: &mut dyn FnMut() -> Result<bool, String>) {
        let _ = is_idle;
        self.abort_handle().abort();
    }

    /// Whether the methods for device memory can be called.
    fn joins_devices(&self) -> bool {
        false
    }

    /// How long an operation on devices may wait for other ranks, where the transport joins devices.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// Enqueues that `values` on every rank are replaced by the sum over ranks. Every rank gets the same bits. The order
    /// of adding is the transport's: NCCL's depends, with more than two ranks, on where a number lies in `values`.
    fn all_reduce_device(&mut self, values: DeviceSlice) -> Result<(), CollectiveError> {
        let _ = values;
        Err(CollectiveError::Memory { operation: "all-reduce on a device", joins: "host" })
    }

    /// Enqueues that `whole` (`size` times as long) gets every rank's `part` in rank order. `part` may be this rank's
    /// place in `whole`; in a group of one, which moves nothing, it must be.
    fn all_gather_device(&mut self, part: DeviceSlice, whole: DeviceSlice) -> Result<(), CollectiveError> {
        let _ = (part, whole);
        Err(CollectiveError::Memory { operation: "all-gather on a device", joins: "host" })
    }

    /// Enqueues that the `values` of `root` replace those of every other rank, bit for bit.
    fn broadcast_device(&mut self, root: Rank, values: DeviceSlice) -> Result<(), CollectiveError> {
        let _ = (root, values);
        Err(CollectiveError::Memory { operation: "broadcast on a device", joins: "host" })
    }

    /// Waits until `done`, a query of the device, says true. Meanwhile it looks whether the group still stands, whether it
    /// was aborted, and whether the group's deadline is over, which must be longer than the work takes.
    ///
    /// # Errors
    /// `Device` with what `done` said; `SomeoneLost`, `Library`, `Aborted` or `Overdue`: the group is then useless, and what
    /// was enqueued may still run on the device until the collective is dropped.
    fn watch(&mut self, done: &mut dyn FnMut() -> Result<bool, String>) -> Result<(), CollectiveError> {
        let _ = done;
        Err(CollectiveError::Memory { operation: "watch a device", joins: "host" })
    }
}
