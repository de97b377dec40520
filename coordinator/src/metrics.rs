//! What the coordinator counts of its engine, and what it lost. Handles are looked up once; gauges bear the replica's
//! name, since several replicas may share a process.

use metrics::{Counter, Gauge, counter, gauge};
use tessera_engine::Stats;
use tessera_service::metrics as names;
use tessera_types::Rank;

use crate::state::ReplicaState;

pub(crate) struct Metrics {
    running: Gauge,
    waiting: Gauge,
    queued_tokens: Gauge,
    blocks: Gauge,
    blocks_used: Gauge,
    preemptions: Counter,
    preemptions_counted: u64,
    prefix_hits: Counter,
    prefix_hits_counted: u64,
    /// By rank.
    lost: Vec<Gauge>,
    registry_away: Gauge,
}

impl Metrics {
    pub(crate) fn new(replica: &str, tp: u16) -> Self {
        let gauge = |name: &'static str| gauge!(name, "replica" => replica.to_owned());
        let lost = |rank: u16| gauge!(names::RANK_LOST, "replica" => replica.to_owned(), "rank" => rank.to_string());
        Self {
            running: gauge(names::RUNNING_SEQUENCES),
            waiting: gauge(names::WAITING_REQUESTS),
            queued_tokens: gauge(names::QUEUED_TOKENS),
            blocks: gauge(names::KV_BLOCKS),
            blocks_used: gauge(names::KV_BLOCKS_USED),
            preemptions: counter!(names::PREEMPTIONS_TOTAL),
            preemptions_counted: 0,
            prefix_hits: counter!(names::PREFIX_CACHE_HIT_TOKENS_TOTAL),
            prefix_hits_counted: 0,
            lost: (0..tp).map(lost).collect(),
            registry_away: gauge(names::REGISTRY_AWAY_SECONDS),
        }
    }

    /// How the engine is now, and what the replica lost.
    pub(crate) fn publish(&mut self, stats: &Stats, replica: &ReplicaState) {
        self.running.set(stats.running as f64);
        self.waiting.set(stats.waiting as f64);
        self.queued_tokens.set(stats.queued_tokens as f64);
        self.blocks.set(stats.blocks_total as f64);
        self.blocks_used.set(stats.blocks_used as f64);
        self.preemptions.increment(stats.preemptions.saturating_sub(self.preemptions_counted));
        self.preemptions_counted = stats.preemptions;
        self.prefix_hits.increment(stats.prefix_hit_tokens.saturating_sub(self.prefix_hits_counted));
        self.prefix_hits_counted = stats.prefix_hit_tokens;
        for (rank, lost) in (0..).map(Rank).zip(&self.lost) {
            lost.set(f64::from(u8::from(replica.lost.contains(&rank))));
        }
        self.registry_away.set(replica.registry_away.map_or(0.0, |since| since.elapsed().as_secs_f64()));
    }
}
