//! What every collective must do, checked by each rank on its own against numbers it computes itself.

use tessera_collective::Collective;
use tessera_types::Rank;

/// Numbers of many magnitudes and both signs, so that the order of adding shows in the last bits.
pub(crate) fn value(rank: usize, index: usize) -> f32 {
    let mixed = ((rank as u32).wrapping_mul(0x9e37_79b9) ^ index as u32).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0xc2b2_ae35);
    // Sign and fraction as they come, the exponent among 32.
    f32::from_bits((mixed & 0x807f_ffff) | ((100 + (mixed >> 23 & 31)) << 23))
}

/// The sum as the contract says: `(r0 + r1) + (r2 + r3)`.
pub(crate) fn tree(parts: &[f32]) -> f32 {
    match parts {
        [only] => *only,
        parts => tree(&parts[..parts.len() / 2]) + tree(&parts[parts.len() / 2..]),
    }
}

pub(crate) fn sums_are_the_tree(collective: &mut dyn Collective, len: usize) {
    let (rank, size) = (usize::from(collective.rank().0), collective.size());
    let mut values: Vec<f32> = (0..len).map(|index| value(rank, index)).collect();
    collective.all_reduce_sum(&mut values).unwrap();
    let mut parts = vec![0.0; size];
    for (index, got) in values.iter().enumerate() {
        parts.iter_mut().enumerate().for_each(|(rank, part)| *part = value(rank, index));
        assert_eq!(got.to_bits(), tree(&parts).to_bits(), "size {size}, length {len}, index {index}");
    }
}

pub(crate) fn gathered_parts_stand_in_rank_order(collective: &mut dyn Collective, len: usize) {
    let (rank, size) = (usize::from(collective.rank().0), collective.size());
    let part: Vec<f32> = (0..len).map(|index| value(rank, index)).collect();
    let mut whole = vec![f32::NAN; size * len];
    collective.all_gather(&part, &mut whole).unwrap();
    for (at, got) in whole.iter().enumerate() {
        assert_eq!(*got, value(at / len, at % len), "size {size}, length {len}, index {at}");
    }
}

pub(crate) fn every_rank_can_be_the_root(collective: &mut dyn Collective, len: usize) {
    for root in 0..collective.size() {
        let own = u8::try_from(collective.rank().0).unwrap();
        let mut bytes = vec![own; len];
        collective.broadcast(Rank(root as u16), &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| usize::from(byte) == root), "root {root}, length {len}");
    }
}

pub(crate) fn small_operations_stay_right(collective: &mut dyn Collective, rounds: usize) {
    let (rank, size) = (usize::from(collective.rank().0), collective.size());
    let ranks: f32 = (0..size).map(|rank| rank as f32).sum();
    for round in 0..rounds {
        let mut values = [rank as f32 + round as f32; 3];
        collective.all_reduce_sum(&mut values).unwrap();
        assert_eq!(values, [ranks + (size * round) as f32; 3]);
    }
}

/// Everything, briefly.
pub(crate) fn all(collective: &mut dyn Collective) {
    for len in [0, 1, 7, 5120, 100_003] {
        sums_are_the_tree(collective, len);
        gathered_parts_stand_in_rank_order(collective, len);
        every_rank_can_be_the_root(collective, len);
    }
    small_operations_stay_right(collective, 500);
}
