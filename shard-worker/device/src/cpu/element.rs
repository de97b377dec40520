//! What weights and cached keys and values are kept in.

use half::bf16;

use super::simd::{LANES, Simd};
use crate::source::Number;

/// Columns of a weight panel: two vectors.
pub(super) const PANEL: usize = 2 * LANES;

/// A stored number. Arithmetic on it is f32.
pub(super) trait Element: Number + Send + Sync + Default + bytemuck::Pod {
    /// Exact.
    fn to_f32(self) -> f32;
    /// Where a column stands in a line of a weight panel.
    fn slot(column: usize) -> usize;
    /// A line of a weight panel: columns `0..16` and `16..32`.
    fn line<S: Simd>(s: S, line: &[Self; PANEL]) -> [S::V; 2];
    /// Sixteen in order.
    fn lanes<S: Simd>(s: S, x: &[Self; LANES]) -> S::V;
}

impl Element for f32 {
    fn to_f32(self) -> f32 {
        self
    }

    fn slot(column: usize) -> usize {
        column
    }

    #[inline(always)]
    fn line<S: Simd>(s: S, line: &[Self; PANEL]) -> [S::V; 2] {
        let (halves, _) = line.as_chunks::<LANES>();
        [s.load(&halves[0]), s.load(&halves[1])]
    }

    #[inline(always)]
    fn lanes<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
        s.load(x)
    }
}

impl Element for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }

    // Columns i and i + 16 share 32 bits, so that a shift and a mask widen a whole line.
    fn slot(column: usize) -> usize {
        2 * (column % LANES) + column / LANES
    }

    #[inline(always)]
    fn line<S: Simd>(s: S, line: &[Self; PANEL]) -> [S::V; 2] {
        s.load_bf16_pair(line)
    }

    #[inline(always)]
    fn lanes<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
        s.load_bf16(x)
    }
}
