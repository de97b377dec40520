//! How long bytes are under way. Pure: time is passed in.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

/// How slow a link is, each way; the default is not slow at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// From one end to the other.
    pub latency: Duration,
    /// At most so much longer; drawn for each piece. Bytes keep their order all the same.
    pub jitter: Duration,
    /// What the jitter is drawn from.
    pub seed: u64,
    /// Bytes that a connection gets onto the link in a second; 0 for any number.
    pub bytes_per_second: u64,
}

/// One way of one connection.
pub(super) struct Line {
    pace: Pace,
    random: StdRng,
    /// When its near end takes the next byte.
    free: Option<Instant>,
    /// When the last byte so far arrives.
    last: Option<Instant>,
}

impl Line {
    /// Lines of one link draw their jitter from `seed` of its pace, and each its own from its number.
    pub(super) fn new(pace: Pace, number: u64) -> Self {
        let random = StdRng::seed_from_u64(pace.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self { pace, random, free: None, last: None }
    }

    /// When the last of so many bytes arrives that are given to the line now.
    pub(super) fn arrival(&mut self, now: Instant, bytes: usize) -> Instant {
        let Pace { latency, jitter, bytes_per_second, .. } = self.pace;
        let takes = match bytes_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
        };
        let free = self.free.map_or(now, |free| free.max(now)) + takes;
        let arrival = free + latency + jitter.mul_f64(self.random.random());
        let arrival = self.last.map_or(arrival, |last| last.max(arrival));
        (self.free, self.last) = (Some(free), Some(arrival));
        arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// Pieces by the milliseconds since the one before and their bytes, and when each arrives, since the beginning.
    fn arrivals(pace: Pace, number: u64, pieces: &[(u64, usize)]) -> Vec<(Duration, Duration)> {
        let (begin, mut line, mut now) = (Instant::now(), Line::new(pace, number), Duration::ZERO);
        let arrival = |&(gap, bytes): &(u64, usize)| {
            now += Duration::from_millis(gap);
            (now, line.arrival(begin + now, bytes) - begin)
        };
        pieces.iter().map(arrival).collect()
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order_and_as_late_as_the_pace_says(
            pieces in prop::collection::vec((0u64..50, 1usize..16 << 10), 1..40),
            latency in 0u64..100, jitter in 0u64..50, seed: u64, number in 0u64..8,
        ) {
            let (latency, jitter) = (latency as u32 * MS, jitter as u32 * MS);
            let pace = Pace { latency, jitter, seed, bytes_per_second: 0 };
            let arrivals = arrivals(pace, number, &pieces);
            prop_assert!(arrivals.is_sorted_by_key(|(_, arrival)| *arrival));
            for (given, arrival) in arrivals {
                prop_assert!(arrival >= given + latency && arrival <= given + latency + jitter);
            }
        }

        #[test]
        fn no_more_bytes_arrive_than_the_line_takes(
            pieces in prop::collection::vec((0u64..50, 1usize..16 << 10), 1..40), rate in 1_000u64..10_000_000,
        ) {
            let pace = Pace { latency: 40 * MS, bytes_per_second: rate, ..Pace::default() };
            let arrivals = arrivals(pace, 0, &pieces);
            for from in 0..pieces.len() {
                let mut bytes = 0;
                for to in from..pieces.len() {
                    bytes += pieces[to].1;
                    let least = Duration::from_secs_f64(bytes as f64 / rate as f64);
                    prop_assert!(arrivals[to].1 + MS / 100 >= arrivals[from].0 + 40 * MS + least);
                }
            }
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_jitter_and_every_line_its_own() {
        let pace = Pace { jitter: 20 * MS, seed: 7, ..Pace::default() };
        let pieces = [(30, 1); 8];
        assert_eq!(arrivals(pace, 1, &pieces), arrivals(pace, 1, &pieces));
        assert_ne!(arrivals(pace, 1, &pieces), arrivals(pace, 2, &pieces));
        assert_ne!(arrivals(pace, 1, &pieces), arrivals(Pace { seed: 8, ..pace }, 1, &pieces));
    }
}
