use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use proptest::prelude::*;
use tessera_types::{Epoch, Rank};

use crate::{Collective, CollectiveError, GroupConfig, Transport, join};

fn config(size: usize, rank: usize, group: &str, deadline: Duration) -> GroupConfig {
    GroupConfig {
        group: group.into(),
        epoch: Epoch(1),
        rank: Rank(rank as u16),
        size,
        transport: Transport::Shm,
        deadline,
    }
}

fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs `body` on every rank of a new group and returns what they return, in rank order.
fn ranks<T: Send>(size: usize, deadline: Duration, body: impl Fn(&mut dyn Collective) -> T + Sync) -> Vec<T> {
    let group = unique();
    thread::scope(|scope| {
        let run = |rank| {
            let (group, body) = (&group, &body);
            scope.spawn(move || body(join(&config(size, rank, group, deadline)).unwrap().as_mut()))
        };
        let threads: Vec<_> = (0..size).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

const LONG: Duration = Duration::from_secs(20);

fn value(rank: usize, index: usize) -> f32 {
    ((rank * 7919 + index * 104_729) % 1009) as f32 * 0.37 - 150.0
}

fn tree(parts: &[f32]) -> f32 {
    match parts {
        [only] => *only,
        parts => tree(&parts[..parts.len() / 2]) + tree(&parts[parts.len() / 2..]),
    }
}

#[test]
fn sums_are_the_tree_to_the_bit_for_every_size_and_length() {
    for size in [1, 2, 4, 8] {
        for len in [0, 1, 7, 5120, 700_000] {
            let sums = ranks(size, LONG, |collective| {
                let rank = usize::from(collective.rank().0);
                let mut values: Vec<f32> = (0..len).map(|index| value(rank, index)).collect();
                collective.all_reduce_sum(&mut values).unwrap();
                values
            });
            for sum in &sums {
                for (index, got) in sum.iter().enumerate() {
                    let parts: Vec<f32> = (0..size).map(|rank| value(rank, index)).collect();
                    assert_eq!(got.to_bits(), tree(&parts).to_bits(), "size {size}, length {len}, index {index}");
                }
            }
        }
    }
}

#[test]
fn gathered_parts_stand_in_rank_order() {
    for len in [1, 300_000] {
        let wholes = ranks(4, LONG, |collective| {
            let part = vec![f32::from(collective.rank().0); len];
            let mut whole = vec![-1.0; 4 * len];
            collective.all_gather(&part, &mut whole).unwrap();
            whole
        });
        for whole in wholes {
            assert!(whole.iter().enumerate().all(|(at, &value)| value == (at / len) as f32));
        }
    }
}

#[test]
fn every_rank_can_be_the_root() {
    for root in 0..4 {
        let all = ranks(4, LONG, |collective| {
            let mut bytes = vec![collective.rank().0 as u8; 13];
            collective.broadcast(Rank(root), &mut bytes).unwrap();
            bytes
        });
        assert!(all.iter().all(|bytes| bytes == &vec![root as u8; 13]));
    }
}

#[test]
fn ten_thousand_small_operations_stay_right() {
    ranks(2, LONG, |collective| {
        for round in 0..10_000 {
            let mut values = [f32::from(collective.rank().0) + round as f32];
            collective.all_reduce_sum(&mut values).unwrap();
            assert_eq!(values[0], 2.0 * round as f32 + 1.0);
        }
    });
}

#[test]
fn an_abort_ends_the_waiting_of_all() {
    let errors = ranks(2, LONG, |collective| {
        if collective.rank() == Rank(1) {
            thread::sleep(Duration::from_millis(50));
            collective.abort_handle().abort();
        }
        collective.all_reduce_sum(&mut [1.0]).unwrap_err()
    });
    assert_eq!(errors, [CollectiveError::PeerLost(Rank(1)), CollectiveError::Aborted]);
}

#[test]
fn a_rank_that_leaves_is_missed() {
    let results = ranks(2, LONG, |collective| match collective.rank() {
        Rank(0) => collective.all_reduce_sum(&mut [1.0]),
        _ => Ok(()),
    });
    assert_eq!(results[0], Err(CollectiveError::PeerLost(Rank(1))));
}

#[test]
fn a_rank_that_never_comes_is_waited_for_no_longer_than_the_deadline() {
    let late = join(&config(2, 1, &unique(), Duration::from_millis(50))).err();
    assert_eq!(late, Some(CollectiveError::Deadline { rank: Rank(0), operation: "join", deadline_ms: 50 }));
    let late = join(&config(2, 0, &unique(), Duration::from_millis(50))).err();
    assert_eq!(late, Some(CollectiveError::Deadline { rank: Rank(1), operation: "join", deadline_ms: 50 }));
}

#[test]
fn ranks_that_disagree_are_told_so() {
    let errors = ranks(2, LONG, |collective| {
        let mut values = vec![0.0; 3 + usize::from(collective.rank().0)];
        collective.all_reduce_sum(&mut values).unwrap_err()
    });
    assert!(errors.iter().any(|error| matches!(error, CollectiveError::Mismatch(_))), "{errors:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_series_of_operations_gives_every_rank_the_same(operations in prop::collection::vec((0..3_usize, 0..3000_usize), 1..20)) {
        let outcomes = ranks(2, LONG, |collective| {
            let rank = usize::from(collective.rank().0);
            let mut log = Vec::new();
            for (round, &(operation, len)) in operations.iter().enumerate() {
                let mut values: Vec<f32> = (0..len).map(|index| value(rank + round, index)).collect();
                match operation {
                    0 => collective.all_reduce_sum(&mut values).unwrap(),
                    1 => {
                        let part = values.clone();
                        values.resize(2 * len, 0.0);
                        collective.all_gather(&part, &mut values).unwrap();
                    }
                    _ => collective.broadcast(Rank((round % 2) as u16), bytemuck::cast_slice_mut(&mut values)).unwrap(),
                }
                log.push(values);
            }
            log
        });
        prop_assert_eq!(&outcomes[0], &outcomes[1]);
    }
}
