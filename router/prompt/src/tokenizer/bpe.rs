//! Byte-pair encoding: merge the adjacent pair of lowest rank until none can be merged.

use std::{cmp::Reverse, collections::BinaryHeap};

use rustc_hash::FxHashMap;

/// Pieces up to this long are merged by scanning, which beats a heap for them.
const SHORT: usize = 96;
const NONE: u32 = u32::MAX;

/// Hands over the ranks of a piece's tokens. Every single byte must have a rank.
pub(super) fn encode(piece: &[u8], ranks: &FxHashMap<Vec<u8>, u32>, mut emit: impl FnMut(u32)) {
    if let Some(&rank) = ranks.get(piece) {
        return emit(rank);
    }
    let bounds = if piece.len() <= SHORT { merge_short(piece, ranks) } else { merge_long(piece, ranks) };
    for pair in bounds.windows(2) {
        // Merged spans have ranks by construction, bytes by the vocabulary's check.
        if let Some(&rank) = ranks.get(&piece[pair[0]..pair[1]]) {
            emit(rank);
        }
    }
}

fn rank_of(piece: &[u8], start: usize, end: usize, ranks: &FxHashMap<Vec<u8>, u32>) -> u32 {
    ranks.get(&piece[start..end]).copied().unwrap_or(NONE)
}

/// Bounds of the tokens, by repeated scans.
fn merge_short(piece: &[u8], ranks: &FxHashMap<Vec<u8>, u32>) -> Vec<usize> {
    // (start of a token, rank of it merged with the next)
    let mut parts: Vec<(usize, u32)> =
        (0..=piece.len()).map(|at| (at, if at + 2 <= piece.len() { rank_of(piece, at, at + 2, ranks) } else { NONE })).collect();
    loop {
        let lowest = parts.iter().enumerate().min_by_key(|(index, part)| (part.1, *index));
        let Some((index, &(_, rank))) = lowest else { break };
        if rank == NONE {
            break;
        }
        parts.remove(index + 1);
        let merged = |parts: &[(usize, u32)], index: usize| match parts.get(index + 2) {
            Some(&(end, _)) => rank_of(piece, parts[index].0, end, ranks),
            None => NONE,
        };
        parts[index].1 = merged(&parts, index);
        if index > 0 {
            parts[index - 1].1 = merged(&parts, index - 1);
        }
    }
    parts.into_iter().map(|(start, _)| start).collect()
}

/// Bounds of the tokens, by a heap over a linked list: `n log n`, so that no text is slow.
fn merge_long(piece: &[u8], ranks: &FxHashMap<Vec<u8>, u32>) -> Vec<usize> {
    let len = piece.len();
    // Tokens by their start: where the next begins, and where the one before does.
    let mut next: Vec<usize> = (1..=len).collect();
    let mut previous: Vec<usize> = (0..len).map(|at| at.wrapping_sub(1)).collect();
    let mut alive = vec![true; len];
    let mut heap = BinaryHeap::new();
    // A candidate is stale once either token has changed; its end tells.
    let push = |heap: &mut BinaryHeap<_>, start: usize, end: usize| {
        let rank = rank_of(piece, start, end, ranks);
        if rank != NONE {
            heap.push(Reverse((rank, start, end)));
        }
    };
    (0..len.saturating_sub(1)).for_each(|at| push(&mut heap, at, at + 2));
    while let Some(Reverse((_, start, end))) = heap.pop() {
        let middle = next[start];
        if !alive[start] || middle >= len || next[middle] != end {
            continue;
        }
        alive[middle] = false;
        next[start] = end;
        if end < len {
            previous[end] = start;
            push(&mut heap, start, next[end]);
        }
        if start > 0 {
            push(&mut heap, previous[start], end);
        }
    }
    let mut bounds = vec![0];
    while let Some(&last) = bounds.last()
        && last < len
    {
        bounds.push(next[last]);
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vocabulary(merges: &[&str]) -> FxHashMap<Vec<u8>, u32> {
        let bytes = (0..=255_u8).map(|byte| vec![byte]);
        bytes.chain(merges.iter().map(|merge| merge.as_bytes().to_vec())).zip(0..).collect()
    }

    proptest! {
        #[test]
        fn heap_and_scan_agree(text in "[abc]{1,90}") {
            let ranks = vocabulary(&["ab", "bc", "abc", "aa", "aaaa", "cab", "bcab", "ca"]);
            prop_assert_eq!(merge_short(text.as_bytes(), &ranks), merge_long(text.as_bytes(), &ranks));
        }
    }
}
