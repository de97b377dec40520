//! Cutting messages.

use std::ops::Range;

/// `0..len` in pieces of at most `most`; one empty piece where there is nothing, so that ranks still meet.
pub(crate) fn pieces(len: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len.max(1)).step_by(most).map(move |start| start..(start + most).min(len))
}

/// The part of `0..len` that falls to one of `size` ranks.
pub(crate) fn share(len: usize, rank: usize, size: usize) -> Range<usize> {
    rank * len / size..(rank + 1) * len / size
}
