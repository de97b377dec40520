//! Rotary position embedding: cosines and sines, and turning by them.

use std::ops::Range;
use std::sync::OnceLock;

use super::pool::Pool;
use crate::{DeviceError, Heads};

/// Positions whose angles are computed together.
const RUN: usize = 256;

/// How a position turns the pairs of a head.
enum Angles {
    /// Pair `i` by `position * frequencies[i]`.
    Line(Vec<f64>),
    /// The first pairs by the row, the others by the column of position `row * side + column`.
    Grid { side: usize, rows: Vec<f64>, columns: Vec<f64> },
}

/// Cosines and sines of all positions, computed when first met: a context of 131,072 tokens would take 67 MB.
pub struct CpuRotary {
    pairs: usize,
    positions: usize,
    angles: Angles,
    runs: Vec<OnceLock<Box<[f32]>>>,
}

impl CpuRotary {
    /// See [`crate::Device::rotary`].
    pub(super) fn line(head_dim: usize, theta: f64, positions: usize) -> Self {
        Self::new(head_dim, positions, Angles::Line(frequencies(head_dim, theta).collect()))
    }

    /// See [`crate::Device::rotary_2d`].
    pub(super) fn grid(head_dim: usize, theta: f64, side: usize) -> Self {
        let rows = frequencies(head_dim, theta).step_by(2).collect();
        let columns = frequencies(head_dim, theta).skip(1).step_by(2).collect();
        Self::new(head_dim, side * side, Angles::Grid { side, rows, columns })
    }

    fn new(head_dim: usize, positions: usize, angles: Angles) -> Self {
        let runs = (0..positions.div_ceil(RUN)).map(|_| OnceLock::new()).collect();
        Self { pairs: head_dim / 2, positions, angles, runs }
    }

    /// `[cos, sin]` of every pair at a position below `positions`.
    fn at(&self, position: usize) -> &[f32] {
        let (run, offset) = (position / RUN, position % RUN);
        let width = 2 * self.pairs;
        let table = self.runs[run].get_or_init(|| self.compute(run * RUN..(run + 1) * RUN));
        &table[offset * width..(offset + 1) * width]
    }

    fn compute(&self, positions: Range<usize>) -> Box<[f32]> {
        let mut table = Vec::with_capacity(positions.len() * 2 * self.pairs);
        let mut push = |angle: f64| table.extend([angle.cos() as f32, angle.sin() as f32]);
        for position in positions {
            match &self.angles {
                Angles::Line(frequencies) => frequencies.iter().for_each(|f| push(position as f64 * f)),
                Angles::Grid { side, rows, columns } => {
                    rows.iter().for_each(|f| push((position / side) as f64 * f));
                    columns.iter().for_each(|f| push((position % side) as f64 * f));
                }
            }
        }
        table.into_boxed_slice()
    }
}

fn frequencies(head_dim: usize, theta: f64) -> impl Iterator<Item = f64> {
    (0..head_dim / 2).map(move |i| theta.powf(-2.0 * i as f64 / head_dim as f64))
}

/// Turns queries and keys of fused rows; see [`crate::Device::rotate`].
pub(super) fn rotate(
    pool: &Pool,
    qkv: &mut [f32],
    heads: Heads,
    rotary: &CpuRotary,
    positions: &[u32],
) -> Result<(), DeviceError> {
    if rotary.pairs * 2 != heads.head_dim {
        let detail = format!("heads of {} turned by angles for {}", heads.head_dim, rotary.pairs * 2);
        return Err(DeviceError::Shape { operation: "rotate", detail });
    }
    if let Some(far) = positions.iter().find(|p| **p as usize >= rotary.positions) {
        let detail = format!("position {far} is beyond the {} there are angles for", rotary.positions);
        return Err(DeviceError::Shape { operation: "rotate", detail });
    }
    let turned = (heads.heads + heads.kv_heads) * heads.head_dim;
    pool.rows(1, qkv, heads.fused(), |row, x| {
        let angles = rotary.at(positions[row] as usize);
        for head in x[..turned].chunks_exact_mut(heads.head_dim) {
            turn(head, angles);
        }
    })
}

/// Turns pairs `(2i, 2i + 1)`.
fn turn(head: &mut [f32], angles: &[f32]) {
    for ([a, b], [cos, sin]) in head.as_chunks_mut().0.iter_mut().zip(angles.as_chunks().0) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}
