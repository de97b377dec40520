//! Waiting for a rank: a bounded spin, then sleep.
//!
//! Spinning answers in a fraction of a microsecond where every rank has a core; where cores are shared it steals the very
//! time the late rank needs. So the spin shrinks each time it was in vain and grows back each time it was not. A short
//! spin cannot see that a longer one would do, so now and then a full one is tried.

use std::{
    hint,
    time::{Duration, Instant},
};

use tessera_types::Rank;

use super::mapping::Mapping;
use crate::{AbortHandle, CollectiveError, deadline::Deadline};

const LONGEST: Duration = Duration::from_micros(60);
const SHORTEST: Duration = Duration::from_micros(2);
/// Looks between two readings of the clock, which takes as long as one of them.
const LOOKS: u32 = 16;
/// Waits from one full spin to the next: at least, and at most when full spins are in vain too.
const PROBES: (u32, u32) = (32, 1024);
/// How long a sleeper sleeps before it looks after the other's health.
const NAP: Duration = Duration::from_millis(20);

pub(super) struct Waiter {
    limit: Duration,
    abort: AbortHandle,
    spin: Duration,
    /// Waits since the last full spin, and how many there are to be.
    waits: u32,
    probe_after: u32,
}

impl Waiter {
    pub(super) fn new(limit: Duration, abort: AbortHandle) -> Self {
        Self { limit, abort, spin: LONGEST, waits: 0, probe_after: PROBES.0 }
    }

    /// Waits until `other` arrived at the exchange.
    pub(super) fn wait(
        &mut self,
        mapping: &Mapping,
        other: usize,
        sequence: u32,
        operation: &'static str,
    ) -> Result<(), CollectiveError> {
        let arrived = || mapping.has_arrived(other, sequence);
        if arrived() || self.spin(arrived) {
            return self.abort.check();
        }
        let deadline = Deadline::after(self.limit);
        loop {
            self.abort.check()?;
            // Whoever arrived and then left took part.
            let gone = mapping.is_gone(other);
            if arrived() {
                return Ok(());
            }
            if gone {
                return Err(CollectiveError::PeerLost(Rank(other as u16)));
            }
            deadline.check(other, operation)?;
            mapping.sleep(other, sequence, NAP);
        }
    }

    /// Whether the other arrived while this rank spun.
    fn spin(&mut self, arrived: impl Fn() -> bool) -> bool {
        self.waits += 1;
        let probe = self.waits >= self.probe_after;
        let bound = if probe { LONGEST } else { self.spin };
        let seen = spin(bound, arrived);
        self.spin = match (probe, seen) {
            (true, true) => LONGEST,
            (false, true) => (self.spin * 2).min(LONGEST),
            (_, false) => (self.spin / 2).max(SHORTEST),
        };
        if probe {
            self.waits = 0;
            self.probe_after = if seen { PROBES.0 } else { (self.probe_after * 2).min(PROBES.1) };
        }
        seen
    }
}

fn spin(bound: Duration, arrived: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < bound {
        for _ in 0..LOOKS {
            hint::spin_loop();
            if arrived() {
                return true;
            }
        }
    }
    false
}
