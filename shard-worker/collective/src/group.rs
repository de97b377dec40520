//! Joining a group.

use std::{net::SocketAddr, time::Duration};

use tessera_types::{Epoch, Rank};

use crate::{AbortHandle, Collective, CollectiveError, NcclId, Solo, nccl::Nccl, shm::Shm, tcp::Tcp};

/// How the ranks of a group reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Shared memory of one host.
    Shm,
    /// One address a rank, in rank order.
    Tcp {
        /// Where each rank listens while the group forms.
        addresses: Vec<SocketAddr>,
    },
    /// NCCL, between GPUs. A rank joins with the device whose CUDA context is current on its thread.
    Nccl {
        /// What one of the ranks made for this group by [`nccl_id`](crate::nccl_id).
        id: NcclId,
    },
}

/// A group to join.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The same on all ranks, and of no other group on the hosts.
    pub group: String,
    /// The group's life.
    pub epoch: Epoch,
    /// This rank.
    pub rank: Rank,
    /// Ranks in the group: 1, 2, 4 or 8.
    pub size: usize,
    /// How they reach each other.
    pub transport: Transport,
    /// How long joining, or one operation, may wait for a rank.
    pub deadline: Duration,
}

impl GroupConfig {
    /// What an operation may wait for a rank, where no one says otherwise.
    pub const DEADLINE: Duration = Duration::from_secs(30);
}

/// Joins the group; returns when every rank is there.
///
/// # Errors
/// `Mismatch` for a rank or size that cannot be, a place already taken, or too few addresses; `Deadline` when a rank
/// does not come; `PeerLost` when one leaves again; `Io` when the system refuses. Of NCCL: `Missing`, `Overdue`,
/// `SomeoneLost` and `Library`.
pub fn join(config: &GroupConfig) -> Result<Box<dyn Collective>, CollectiveError> {
    join_with(config, AbortHandle::new())
}

/// [`join`], which `abort` ends with `Aborted`. The collective's handle is the one given.
pub fn join_with(config: &GroupConfig, abort: AbortHandle) -> Result<Box<dyn Collective>, CollectiveError> {
    if !matches!(config.size, 1 | 2 | 4 | 8) || usize::from(config.rank.0) >= config.size {
        return Err(CollectiveError::Mismatch(format!("rank {} in a group of {}", config.rank, config.size)));
    }
    abort.check()?;
    if config.size == 1 {
        return Ok(Box::new(Solo::new(config.deadline, abort)));
    }
    match &config.transport {
        Transport::Shm => Ok(Box::new(Shm::join(config, abort)?)),
        Transport::Tcp { addresses } => Ok(Box::new(Tcp::join(config, addresses, abort)?)),
        Transport::Nccl { id } => Ok(Box::new(Nccl::join(config, id, abort)?)),
    }
}
