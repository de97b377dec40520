//! What joins the ranks of a group.
//!
//! `shm` joins ranks of one host, threads or processes; `tcp` joins hosts. Every rank makes the same calls in the
//! same order. Sums are taken as a binary tree in rank order, so every rank of every degree adds alike
//! (ARCHITECTURE.md, "The same tokens").

mod abort;
mod call;
mod deadline;
mod group;
mod host;
mod pieces;
mod shm;
mod solo;
mod tcp;
mod tree;

pub use abort::AbortHandle;
pub use group::{GroupConfig, Transport, join, join_with};
pub use host::host;
pub use solo::Solo;

use tessera_types::Rank;

/// Why a collective ended without a result. The group is useless afterwards; a new one must be formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// [`AbortHandle::abort`] was called here.
    #[error("the collective was aborted")]
    Aborted,
    /// Another rank is gone: its connection closed, or it said that it aborted.
    #[error("rank {0} left the group")]
    PeerLost(Rank),
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
    /// Ranks disagree on what they are doing, or a buffer has the wrong size.
    #[error("ranks disagree: {0}")]
    Mismatch(String),
    /// The operating system refused.
    #[error("{context}: {error}")]
    Io {
        /// What was tried.
        context: String,
        /// What came back.
        error: String,
    },
}

/// Operations all ranks make together. Calls block the thread that owns the device.
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
}
