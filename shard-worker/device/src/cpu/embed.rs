//! Looking up rows by token.

use half::bf16;
use tessera_types::TokenId;

use super::buffer::Buffer;
use super::element::Element;
use super::pool::Pool;
use super::source::load;
use crate::{DeviceError, Dtype, MatrixSource};

/// Rows to look up, `[tokens, dim]`.
pub struct CpuTable {
    pub(super) dim: usize,
    tokens: usize,
    rows: Rows,
}

enum Rows {
    F32(Buffer<f32>),
    Bf16(Buffer<bf16>),
}

impl CpuTable {
    /// See [`crate::Device::load_table`].
    pub(super) fn load(pool: &Pool, source: &MatrixSource<'_>, dtype: Dtype) -> Result<Self, DeviceError> {
        source.check("load_table")?;
        let rows = match dtype {
            Dtype::F32 => Rows::F32(load(pool, source, "the embedding")?),
            Dtype::Bf16 => Rows::Bf16(load(pool, source, "the embedding")?),
        };
        Ok(Self { dim: source.cols(), tokens: source.rows.len(), rows })
    }

    /// Writes the row of a token, counted from the table's first; zeros where the table does not hold it.
    pub(super) fn look_up(&self, first: usize, token: TokenId, out: &mut [f32]) {
        match (token.0 as usize).checked_sub(first).filter(|row| *row < self.tokens) {
            None => out.fill(0.0),
            Some(row) => match &self.rows {
                Rows::F32(rows) => widen(&rows[row * self.dim..], out),
                Rows::Bf16(rows) => widen(&rows[row * self.dim..], out),
            },
        }
    }
}

fn widen<E: Element>(row: &[E], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(row) {
        *out = x.to_f32();
    }
}
