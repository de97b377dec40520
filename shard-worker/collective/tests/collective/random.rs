//! Random series of operations, whose outcome every rank knows beforehand.

use proptest::prelude::*;
use tessera_collective::Collective;
use tessera_types::Rank;

use crate::{
    groups::{Kind, group, run},
    suite,
};

#[derive(Clone, Copy, Debug)]
enum Operation {
    Sum(usize),
    Gather(usize),
    Broadcast(usize, usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let len = prop_oneof![8 => 0..40_usize, 4 => 0..6000_usize, 1 => 0..600_000_usize];
    (0..3, len, 0..8_usize).prop_map(|(which, len, root)| match which {
        0 => Operation::Sum(len),
        1 => Operation::Gather(len),
        _ => Operation::Broadcast(len, root),
    })
}

fn perform(collective: &mut dyn Collective, operation: Operation) {
    match operation {
        Operation::Sum(len) => suite::sums_are_the_tree(collective, len),
        Operation::Gather(len) => suite::gathered_parts_stand_in_rank_order(collective, len),
        Operation::Broadcast(len, root) => {
            let root = root % collective.size();
            let at_root = collective.rank() == Rank(root as u16);
            let mut bytes: Vec<u8> = (0..len).map(|at| if at_root { (at * 7) as u8 } else { 0 }).collect();
            collective.broadcast(Rank(root as u16), &mut bytes).unwrap();
            assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == (at * 7) as u8));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_series_of_operations_comes_out_right(
        operations in prop::collection::vec(operation(), 1..24),
        size in prop::sample::select(vec![1, 2, 4, 8]),
        kind in prop::sample::select(vec![Kind::Shm, Kind::Tcp]),
    ) {
        run(&group(kind, size), |collective| operations.iter().for_each(|&operation| perform(collective, operation)));
    }
}
