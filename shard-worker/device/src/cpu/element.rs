//! What weights and cached keys and values are kept in.

use half::{bf16, f16};

use super::simd::{LANES, Simd};
use crate::SourceDtype;

/// Columns of a weight panel: two vectors.
pub(super) const PANEL: usize = 2 * LANES;

/// A stored number. Arithmetic on it is f32.
pub(super) trait Element: Copy + Send + Sync + Default + bytemuck::Pod {
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    /// Exact.
    fn from_bf16(x: bf16) -> Self;
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
    fn from_f32(x: f32) -> Self {
        x
    }

    fn from_bf16(x: bf16) -> Self {
        x.to_f32()
    }

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
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }

    fn from_bf16(x: bf16) -> Self {
        x
    }

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

/// Reads little-endian numbers; `bytes` holds exactly `out.len()` of them.
pub(super) fn read<E: Element>(bytes: &[u8], dtype: SourceDtype, out: &mut [E]) {
    match dtype {
        SourceDtype::F32 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = E::from_f32(f32::from_le_bytes(*bytes));
            }
        }
        SourceDtype::Bf16 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = E::from_bf16(bf16::from_le_bytes(*bytes));
            }
        }
        SourceDtype::F16 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = E::from_f32(f16::from_le_bytes(*bytes).to_f32());
            }
        }
    }
}
