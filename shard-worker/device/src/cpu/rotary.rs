//! Rotary position embedding: cosines and sines, and turning by them.

use std::ops::Range;
use std::sync::OnceLock;

use super::pool::Pool;
use crate::{DeviceError, Heads};

/// Positions whose angles are computed together.
const RUN: usize = 256;

/// Cosines and sines along one direction, computed when first met: a context of 131,072 tokens would take 67 MB.
struct Axis {
    frequencies: Vec<f64>,
    runs: Vec<OnceLock<Box<[f32]>>>,
}

impl Axis {
    fn new(frequencies: impl Iterator<Item = f64>, positions: usize) -> Self {
        let runs = (0..positions.div_ceil(RUN)).map(|_| OnceLock::new()).collect();
        Self { frequencies: frequencies.collect(), runs }
    }

    /// `[cos, sin]` of every pair at a position below those it was made for.
    fn at(&self, position: usize) -> &[f32] {
        let (run, offset) = (position / RUN, position % RUN);
        let width = 2 * self.frequencies.len();
        let table = self.runs[run].get_or_init(|| self.compute(run * RUN..(run + 1) * RUN));
        &table[offset * width..(offset + 1) * width]
    }

    fn compute(&self, positions: Range<usize>) -> Box<[f32]> {
        let angles = positions.flat_map(|position| self.frequencies.iter().map(move |f| position as f64 * f));
        angles.flat_map(|angle| [angle.cos() as f32, angle.sin() as f32]).collect()
    }
}

/// How a position turns the pairs of a head.
enum Angles {
    /// All by the position.
    Line(Axis),
    /// The first by the row, the others by the column of position `row * side + column`: tables of `side` each.
    Grid { side: usize, rows: Axis, columns: Axis },
}

/// Angles of all positions.
pub struct CpuRotary {
    pairs: usize,
    positions: usize,
    angles: Angles,
}

impl CpuRotary {
    /// See [`crate::Device::rotary`].
    pub(super) fn line(head_dim: usize, theta: f64, positions: usize) -> Self {
        let angles = Angles::Line(Axis::new(frequencies(head_dim, theta), positions));
        Self { pairs: head_dim / 2, positions, angles }
    }

    /// See [`crate::Device::rotary_2d`].
    pub(super) fn grid(head_dim: usize, theta: f64, side: usize) -> Self {
        let rows = Axis::new(frequencies(head_dim, theta).step_by(2), side);
        let columns = Axis::new(frequencies(head_dim, theta).skip(1).step_by(2), side);
        Self { pairs: head_dim / 2, positions: side.saturating_mul(side), angles: Angles::Grid { side, rows, columns } }
    }

    /// Turns the heads of one row.
    fn turn(&self, heads: &mut [f32], position: usize) {
        match &self.angles {
            Angles::Line(axis) => {
                let angles = axis.at(position);
                heads.chunks_exact_mut(2 * self.pairs).for_each(|head| turn(head, angles));
            }
            Angles::Grid { side, rows, columns } => {
                let (by_row, by_column) = (rows.at(position / side), columns.at(position % side));
                for head in heads.chunks_exact_mut(2 * self.pairs) {
                    let (first, second) = head.split_at_mut(by_row.len());
                    turn(first, by_row);
                    turn(second, by_column);
                }
            }
        }
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
        rotary.turn(&mut x[..turned], positions[row] as usize);
    })
}

/// Turns pairs `(2i, 2i + 1)`.
fn turn(head: &mut [f32], angles: &[f32]) {
    for ([a, b], [cos, sin]) in head.as_chunks_mut().0.iter_mut().zip(angles.as_chunks().0) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}
