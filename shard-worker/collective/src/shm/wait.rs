//! Waiting for a rank: a bounded spin, then sleep.
//!
//! Spinning answers in a fraction of a microsecond where every rank has a core; where cores are shared it steals the very
//! time the late rank needs. So the spin shrinks each time it was in vain and grows back each time it was not.

use std::{
    hint,
    time::{Duration, Instant},
};

use tessera_types::Rank;

use super::mapping::Mapping;
use crate::CollectiveError;

/// Longest and shortest spin.
const SPIN: (Duration, Duration) = (Duration::from_micros(60), Duration::from_micros(2));
/// How long a sleeper sleeps before it looks after the other's health.
const NAP: Duration = Duration::from_millis(20);

pub(super) struct Waiter {
    deadline: Duration,
    spin: Duration,
}

impl Waiter {
    pub(super) fn new(deadline: Duration) -> Self {
        Self { deadline, spin: SPIN.0 }
    }

    /// Waits until `other` arrived at the exchange.
    pub(super) fn wait(
        &mut self,
        mapping: &Mapping,
        own: usize,
        other: usize,
        sequence: u32,
        operation: &'static str,
    ) -> Result<(), CollectiveError> {
        let arrived = || mapping.has_arrived(other, sequence);
        if arrived() {
            return check_own(mapping, own);
        }
        let start = Instant::now();
        while start.elapsed() < self.spin {
            for _ in 0..32 {
                hint::spin_loop();
            }
            if arrived() {
                self.spin = (self.spin * 2).min(SPIN.0);
                return check_own(mapping, own);
            }
        }
        self.spin = (self.spin / 2).max(SPIN.1);
        loop {
            check_own(mapping, own)?;
            if arrived() {
                return Ok(());
            }
            if mapping.has_left(other) || mapping.is_dead(other) {
                return Err(CollectiveError::PeerLost(Rank(other as u16)));
            }
            if start.elapsed() >= self.deadline {
                let deadline_ms = self.deadline.as_millis() as u64;
                return Err(CollectiveError::Deadline { rank: Rank(other as u16), operation, deadline_ms });
            }
            mapping.sleep(other, sequence, NAP);
        }
    }
}

fn check_own(mapping: &Mapping, own: usize) -> Result<(), CollectiveError> {
    if mapping.has_left(own) { Err(CollectiveError::Aborted) } else { Ok(()) }
}
