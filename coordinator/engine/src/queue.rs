//! Sequences that wait: those that gave way first, then new ones by priority and arrival.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use tessera_types::SequenceId;

use crate::event::RequestNumber;

/// What a request that was taken gets to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The request.
    pub request: RequestNumber,
    /// Its sequences, in the order given.
    pub sequences: Vec<SequenceId>,
    /// Sequences that go before its first.
    pub queue_position: usize,
}

/// A place in the queue; lesser goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Was admitted before, as the so many-th.
    Returning(u64),
    /// Never was.
    New { priority: Reverse<i32>, sequence: SequenceId },
}

impl Place {
    pub(crate) fn new(priority: i32, sequence: SequenceId) -> Self {
        Self::New { priority: Reverse(priority), sequence }
    }
}

/// The waiting sequences and how fast they leave.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Place, SequenceId>,
    new: usize,
    departures: Departures,
}

impl Queue {
    pub(crate) fn insert(&mut self, place: Place, sequence: SequenceId) {
        self.new += usize::from(matches!(place, Place::New { .. }));
        self.waiting.insert(place, sequence);
    }

    pub(crate) fn remove(&mut self, place: Place) {
        if self.waiting.remove(&place).is_some() {
            self.new -= usize::from(matches!(place, Place::New { .. }));
        }
    }

    pub(crate) fn first(&self) -> Option<(Place, SequenceId)> {
        self.waiting.first_key_value().map(|(&place, &sequence)| (place, sequence))
    }

    /// Takes a sequence out to run. Only newcomers count for the pace, as only they are bounded.
    pub(crate) fn depart(&mut self, now: Duration, place: Place) {
        self.remove(place);
        if matches!(place, Place::New { .. }) {
            self.departures.count(now);
        }
    }

    /// Waiting sequences that were never admitted; these are what the queue's bound counts.
    pub(crate) fn new_len(&self) -> usize {
        self.new
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Waiting sequences that go before `place`.
    pub(crate) fn before(&self, place: Place) -> usize {
        self.waiting.range(..place).count()
    }

    /// When there should be room for `count` more.
    pub(crate) fn retry_after(&self, now: Duration, count: usize) -> Duration {
        self.departures.expected(now, count)
    }
}

/// How often a sequence leaves the queue, as a moving average of the gaps.
#[derive(Debug, Default)]
struct Departures {
    last: Option<Duration>,
    gap: Option<Duration>,
}

impl Departures {
    /// The share of the newest gap in the average is one in so many.
    const SMOOTHING: u32 = 8;
    const UNKNOWN: Duration = Duration::from_secs(1);
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);

    fn count(&mut self, now: Duration) {
        if let Some(last) = self.last {
            let gap = now.saturating_sub(last);
            self.gap = Some(self.gap.map_or(gap, |mean| (mean * (Self::SMOOTHING - 1) + gap) / Self::SMOOTHING));
        }
        self.last = Some(now);
    }

    /// A silence longer than the average says more than the average.
    fn expected(&self, now: Duration, count: usize) -> Duration {
        let (Some(gap), Some(last)) = (self.gap, self.last) else { return Self::UNKNOWN };
        let gap = gap.max(now.saturating_sub(last));
        gap.saturating_mul(count.try_into().unwrap_or(u32::MAX)).clamp(Self::SHORTEST, Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_gave_way_go_first_then_priority_then_arrival() {
        let mut queue = Queue::default();
        let ids = [1, 2, 3, 4, 5].map(SequenceId);
        let places =
            [Place::new(0, ids[0]), Place::new(5, ids[1]), Place::Returning(9), Place::Returning(2), Place::new(0, ids[4])];
        ids.iter().zip(places).for_each(|(&id, place)| queue.insert(place, id));
        assert_eq!(queue.before(places[4]), 4);
        let mut order = Vec::new();
        while let Some((place, id)) = queue.first() {
            queue.depart(Duration::ZERO, place);
            order.push(id.0);
        }
        assert_eq!(order, [4, 3, 2, 1, 5]);
        assert_eq!((queue.len(), queue.new_len()), (0, 0));
    }

    #[test]
    fn the_retry_time_follows_the_pace_of_the_queue() {
        let mut departures = Departures::default();
        let second = Duration::from_secs(1);
        assert_eq!(departures.expected(second, 1), Departures::UNKNOWN);
        (0..5).for_each(|n| departures.count(n * 2 * second));
        assert_eq!(departures.expected(8 * second, 3), 6 * second);
        assert_eq!(departures.expected(18 * second, 1), 10 * second);
        assert_eq!(departures.expected(9999 * second, 1), Departures::LONGEST);
    }
}
