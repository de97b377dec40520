//! Ranks that go wrong: the others learn it, by its name, in bounded time.

use std::{sync::Barrier, thread, time::Duration};

use tessera_collective::{CollectiveError, GroupConfig};
use tessera_types::Rank;

use crate::groups::{KINDS, group, run};

/// Lets the other ranks reach their operation and fall asleep in it.
const MOMENT: Duration = Duration::from_millis(100);

#[test]
fn an_abort_from_another_thread_ends_the_waiting_of_all() {
    for kind in KINDS {
        let errors = run(&group(kind, 2), |collective| {
            if collective.rank() == Rank(0) {
                thread::sleep(2 * MOMENT);
                // What rank 1 had put in before it aborted may still be there to be summed, once.
                return (0..2).find_map(|_| collective.all_reduce_sum(&mut [1.0]).err());
            }
            let handle = collective.abort_handle();
            let abort = thread::spawn(move || {
                thread::sleep(MOMENT);
                handle.abort();
                handle.abort();
            });
            let error = collective.all_reduce_sum(&mut [1.0]).err();
            assert_eq!(collective.broadcast(Rank(0), &mut [1]), Err(CollectiveError::Aborted), "also later");
            abort.join().unwrap();
            error
        });
        assert_eq!(errors, [Some(CollectiveError::PeerLost(Rank(1))), Some(CollectiveError::Aborted)], "{kind:?}");
    }
}

#[test]
fn a_rank_that_aborts_while_it_computes_is_missed_at_once() {
    for kind in KINDS {
        let errors = run(&group(kind, 2), |collective| {
            if collective.rank() == Rank(1) {
                thread::sleep(MOMENT);
                collective.abort_handle().abort();
                // Still there, still computing, when the other already knows.
                thread::sleep(5 * MOMENT);
                return collective.all_gather(&[1.0], &mut [0.0; 2]).unwrap_err();
            }
            collective.all_gather(&[1.0], &mut [0.0; 2]).unwrap_err()
        });
        assert_eq!(errors, [CollectiveError::PeerLost(Rank(1)), CollectiveError::Aborted], "{kind:?}");
    }
}

#[test]
fn a_rank_that_leaves_is_missed_by_all_others() {
    for kind in KINDS {
        let errors = run(&group(kind, 4), |collective| match collective.rank() {
            Rank(3) => None,
            _ => collective.all_reduce_sum(&mut [1.0]).err(),
        });
        for error in &errors[..3] {
            assert!(matches!(error, Some(CollectiveError::PeerLost(_))), "{kind:?}: {error:?}");
        }
    }
}

#[test]
fn a_rank_that_leaves_after_its_last_operation_has_taken_part() {
    for kind in KINDS {
        for _ in 0..50 {
            let config = group(kind, 2);
            run(&config, |collective| collective.all_reduce_sum(&mut [1.0]).unwrap());
        }
    }
}

#[test]
fn a_silent_rank_is_waited_for_until_the_deadline() {
    for kind in KINDS {
        let config = GroupConfig { deadline: Duration::from_millis(1500), ..group(kind, 2) };
        let over = Barrier::new(2);
        let errors = run(&config, |collective| {
            // Rank 1 is there, and says nothing until rank 0 has given up.
            let error = (collective.rank() == Rank(0)).then(|| collective.all_reduce_sum(&mut [1.0]).unwrap_err());
            over.wait();
            error
        });
        let expected = CollectiveError::Deadline { rank: Rank(1), operation: "all-reduce", deadline_ms: 1500 };
        assert_eq!(errors[0], Some(expected), "{kind:?}");
    }
}

fn has_mismatch(errors: &[CollectiveError]) -> bool {
    errors.iter().any(|error| matches!(error, CollectiveError::Mismatch(_)))
}

#[test]
fn ranks_that_disagree_on_a_length_are_told_so() {
    for kind in KINDS {
        for (own, other) in [(3, 4), (0, 1), (5120, 1_000_000)] {
            let errors = run(&group(kind, 2), |collective| {
                let mut values = vec![0.0; if collective.rank() == Rank(0) { own } else { other }];
                collective.all_reduce_sum(&mut values).unwrap_err()
            });
            assert!(has_mismatch(&errors), "{kind:?}: {errors:?}");
        }
    }
}

#[test]
fn ranks_that_disagree_on_the_operation_are_told_so() {
    for kind in KINDS {
        let errors = run(&group(kind, 2), |collective| match collective.rank() {
            Rank(0) => collective.all_reduce_sum(&mut [1.0]).unwrap_err(),
            _ => collective.all_gather(&[1.0], &mut [0.0; 2]).unwrap_err(),
        });
        assert!(has_mismatch(&errors), "{kind:?}: {errors:?}");
        let text = errors.iter().map(ToString::to_string).collect::<String>();
        assert!(text.contains("all-reduce") && text.contains("all-gather"), "{text}");
    }
}

#[test]
fn what_no_group_could_do_is_refused_before_anyone_waits() {
    for kind in KINDS {
        run(&group(kind, 2), |collective| {
            assert!(has_mismatch(&[collective.broadcast(Rank(2), &mut [1]).unwrap_err()]));
            assert!(has_mismatch(&[collective.all_gather(&[1.0], &mut [0.0; 3]).unwrap_err()]));
            let mut values = [1.0];
            collective.all_reduce_sum(&mut values).unwrap();
            assert_eq!(values, [2.0], "the group goes on");
        });
    }
}
