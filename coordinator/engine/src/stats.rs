//! The engine's state in numbers.

/// A snapshot for gauges and for choosing a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences admitted.
    pub running: usize,
    /// Sequences that wait for blocks, those that gave way included.
    pub waiting: usize,
    /// Tokens whose keys and values are still to be computed.
    pub queued_tokens: usize,
    /// Blocks held by sequences.
    pub blocks_used: usize,
    /// Blocks in the cache.
    pub blocks_total: usize,
    /// Encoder outputs on the ranks, in feature rows.
    pub encoder_tokens: usize,
    /// Plans whose output has not come.
    pub in_flight: usize,
    /// Sequences that gave way since the start.
    pub preemptions: u64,
    /// Tokens since the start that were not computed because the cache had their keys and values.
    pub prefix_hit_tokens: u64,
}
