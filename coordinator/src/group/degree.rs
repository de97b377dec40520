//! How many ranks the next group has.

use std::time::{Duration, Instant};

/// How long the first group of an elastic replica waits for all of its workers.
const GATHER: Duration = Duration::from_secs(5);
/// How long a degree that failed is not tried again. It may have been a worker's fault after all, and there is no group
/// meanwhile that an attempt would disturb.
const DESPAIR: Duration = Duration::from_secs(30);

/// The degrees that a replica may run with.
pub(super) struct Degree {
    /// The one asked for.
    tp: usize,
    /// Whether fewer ranks will do.
    elastic: bool,
    started: Instant,
    /// The greatest that was too small for the model, and when that was seen.
    too_small: Option<(usize, Instant)>,
}

impl Degree {
    pub(super) fn new(tp: usize, elastic: bool, now: Instant) -> Self {
        Self { tp, elastic, started: now, too_small: None }
    }

    /// Of the next group, with so many workers that could be claimed; `first` of this replica.
    pub(super) fn next(&self, spares: usize, first: bool, now: Instant) -> usize {
        let gathers = first && now.duration_since(self.started) < GATHER;
        if !self.elastic || spares >= self.tp || gathers {
            return self.tp;
        }
        let too_small = self.too_small.filter(|(_, seen)| now.duration_since(*seen) < DESPAIR).map_or(0, |(degree, _)| degree);
        let smaller = (0..self.tp.ilog2()).rev().map(|power| 1 << power).find(|&degree| degree <= spares);
        smaller.filter(|&degree| degree > too_small).unwrap_or(self.tp)
    }

    /// Notes that a degree was too small; whether there are greater ones.
    pub(super) fn is_too_small(&mut self, degree: usize, now: Instant) -> bool {
        let smaller = degree < self.tp;
        if smaller {
            self.too_small = Some((degree, now));
        }
        smaller
    }

    /// Notes that a group was formed.
    pub(super) fn did(&mut self) {
        self.too_small = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elastic_replica_takes_the_largest_degree_that_there_are_workers_for() {
        let start = Instant::now();
        let (rigid, elastic) = (Degree::new(8, false, start), Degree::new(8, true, start));
        for (spares, degree) in [(9, 8), (8, 8), (7, 4), (4, 4), (3, 2), (1, 1), (0, 8)] {
            assert_eq!((rigid.next(spares, false, start), elastic.next(spares, false, start)), (8, degree));
            assert_eq!(elastic.next(spares, true, start + GATHER / 2), 8, "the first waits for all");
            assert_eq!(elastic.next(spares, true, start + GATHER), degree);
        }
    }

    #[test]
    fn a_degree_that_was_too_small_is_tried_again_after_a_while() {
        let start = Instant::now();
        let mut degree = Degree::new(4, true, start);
        assert!(degree.is_too_small(2, start));
        assert_eq!([1, 2, 3].map(|spares| degree.next(spares, false, start + DESPAIR / 2)), [4, 4, 4]);
        assert_eq!([1, 2, 3].map(|spares| degree.next(spares, false, start + DESPAIR)), [1, 2, 2]);
        assert!(degree.is_too_small(1, start));
        assert_eq!(degree.next(3, false, start), 2);
        degree.did();
        assert_eq!(degree.next(1, false, start), 1);
        assert!(!degree.is_too_small(4, start));
        assert_eq!(degree.next(1, false, start), 1, "that all are too few says nothing of fewer");
    }
}
