//! A bound on waiting for a rank.

use std::time::{Duration, Instant};

use tessera_types::Rank;

use crate::CollectiveError;

#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// Fails once the time is over.
    pub(crate) fn check(&self, rank: usize, operation: &'static str) -> Result<(), CollectiveError> {
        if self.start.elapsed() < self.limit {
            return Ok(());
        }
        let deadline_ms = self.limit.as_millis() as u64;
        Err(CollectiveError::Deadline { rank: Rank(rank as u16), operation, deadline_ms })
    }
}
