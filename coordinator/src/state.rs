//! What others may know of a coordinator while it runs.

use std::{sync::Arc, time::Instant};

use tessera_types::{Epoch, ModelSpec, Rank};

/// Where the group is in its life; for progress bars and for waiting until a replica is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// There are not enough free workers, and nothing was lost: the coordinator stands by.
    Waiting {
        /// Those there are.
        free: usize,
        /// Those needed.
        needed: usize,
    },
    /// The ranks load the model.
    Loading {
        /// Of all ranks together.
        bytes_done: u64,
        /// Of all ranks together, as far as they have said.
        bytes_total: u64,
    },
    /// The group runs steps.
    Ready {
        /// Its epoch.
        epoch: Epoch,
        /// Blocks of the cache.
        kv_blocks: u32,
    },
    /// A group was lost, or could not be formed; it will be tried again.
    Lost {
        /// Ranks that are to blame for the loss, as far as that is known; none before the first group.
        ranks: Vec<Rank>,
        /// Why there is no group: what ended the last one, and what keeps the next from being formed.
        problem: String,
    },
    /// The coordinator has stopped.
    Stopped,
}

/// What routers ask for: the group, its load and its limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaState {
    /// The last group's epoch; 0 before there was any.
    pub epoch: Epoch,
    /// Its workers by rank; empty while there is no group.
    pub workers: Vec<String>,
    /// When it was formed.
    pub formed: Option<Instant>,
    /// Groups so far.
    pub groups: u64,
    /// Why the group before this one ended.
    pub last_loss: String,
    /// Ranks that the last group lost, until workers are claimed for the next.
    pub lost: Vec<Rank>,
    /// Why there is no group; empty while there is one, and while this replica stands by for workers.
    pub problem: String,
    /// Since when the registry has answered nothing; until it does, nothing that is lost is replaced.
    pub registry_away: Option<Instant>,
    /// The model's shape, once a group has loaded it.
    pub spec: Option<Arc<ModelSpec>>,
    /// What its weights are known by, wherever they lie; empty before there was any group.
    pub fingerprint: String,
    /// What may change with every step.
    pub condition: Condition,
}

/// How a replica is: its load, its limits, and whether it takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Tokens a sequence may have.
    pub max_context: usize,
    /// Blocks of the cache.
    pub kv_blocks: usize,
    /// Blocks in use.
    pub kv_blocks_used: usize,
    /// Sequences that run.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Tokens to be computed.
    pub queued_tokens: usize,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it finishes what it has.
    pub draining: bool,
}
