//! The suite over threads, for every transport, size and length.

use tessera_collective::Solo;

use crate::{
    groups::{KINDS, Kind, group, run},
    suite,
};

#[test]
fn a_group_of_one_is_its_own_sum() {
    suite::all(&mut Solo::default());
}

#[test]
fn every_transport_and_size_does_the_whole_suite() {
    for kind in KINDS {
        for size in [1, 2, 4, 8] {
            run(&group(kind, size), suite::all);
        }
    }
}

#[test]
fn three_million_numbers_are_summed_as_the_tree_sums_them() {
    for kind in KINDS {
        for size in [2, 4, 8] {
            run(&group(kind, size), |collective| suite::sums_are_the_tree(collective, 3_000_000));
        }
    }
}

#[test]
fn gathers_and_broadcasts_larger_than_a_slot_arrive_whole() {
    for kind in KINDS {
        run(&group(kind, 4), |collective| {
            suite::gathered_parts_stand_in_rank_order(collective, 700_001);
            suite::every_rank_can_be_the_root(collective, 3_000_001);
        });
    }
}

#[test]
fn ten_thousand_small_operations_stay_right() {
    run(&group(Kind::Shm, 2), |collective| suite::small_operations_stay_right(collective, 10_000));
    run(&group(Kind::Tcp, 2), |collective| suite::small_operations_stay_right(collective, 10_000));
    run(&group(Kind::Shm, 4), |collective| suite::small_operations_stay_right(collective, 3000));
}
