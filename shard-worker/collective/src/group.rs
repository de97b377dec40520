//! Joining a group.

use std::{net::SocketAddr, time::Duration};

use tessera_types::{Epoch, Rank};

use crate::{Collective, CollectiveError, Solo, shm::Shm};

/// How the ranks of a group reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Shared memory of one host.
    Shm,
    /// One address a rank, in rank order.
    Tcp {
        /// Where each rank listens.
        addresses: Vec<SocketAddr>,
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

/// Joins the group; returns when every rank is there.
pub fn join(config: &GroupConfig) -> Result<Box<dyn Collective>, CollectiveError> {
    if !matches!(config.size, 1 | 2 | 4 | 8) || usize::from(config.rank.0) >= config.size {
        return Err(CollectiveError::Mismatch(format!("rank {} in a group of {}", config.rank, config.size)));
    }
    if config.size == 1 {
        return Ok(Box::new(Solo::default()));
    }
    match &config.transport {
        Transport::Shm => Ok(Box::new(Shm::join(config)?)),
        Transport::Tcp { .. } => Err(CollectiveError::Mismatch("tcp is not there yet".into())),
    }
}
