//! Reading a rank's slice of a checkpoint.

use std::ops::Range;

use super::buffer::Buffer;
use super::element::{Element, read};
use super::parts::Parts;
use super::pool::Pool;
use crate::{DeviceError, MatrixSource};

impl MatrixSource<'_> {
    /// Columns wanted.
    pub(super) fn cols(&self) -> usize {
        self.columns.len()
    }

    /// Fails where the slice does not lie inside the tensor's bytes.
    pub(super) fn check(&self, operation: &'static str) -> Result<(), DeviceError> {
        let failed = |detail| Err(DeviceError::Shape { operation, detail });
        if self.columns.start > self.columns.end || self.columns.end > self.stride {
            return failed(format!("columns {:?} of rows of {}", self.columns, self.stride));
        }
        let Some(last) = self.rows.iter().max() else { return Ok(()) };
        let end = (*last as usize * self.stride).saturating_add(self.columns.end).saturating_mul(self.dtype.size());
        if end > self.bytes.len() {
            return failed(format!("row {last} of {} numbers ends at byte {end} of {}", self.stride, self.bytes.len()));
        }
        Ok(())
    }

    /// Part `columns` (counted from the slice's first) of its `row`th row.
    pub(super) fn read<E: Element>(&self, row: usize, columns: Range<usize>, out: &mut [E]) {
        let start = self.rows[row] as usize * self.stride + self.columns.start;
        let size = self.dtype.size();
        read(&self.bytes[(start + columns.start) * size..(start + columns.end) * size], self.dtype, out);
    }
}

/// Reads all rows of a slice, `[rows, cols]`.
#[allow(unsafe_code)]
pub(super) fn load<E: Element>(pool: &Pool, source: &MatrixSource<'_>, what: &str) -> Result<Buffer<E>, DeviceError> {
    let cols = source.cols();
    let mut out = Buffer::zeroed(source.rows.len() * cols, what)?;
    let parts = Parts::new(&mut out);
    pool.run(source.rows.len() * cols, source.rows.len(), |row| {
        // SAFETY: a row belongs to one task.
        source.read(row, 0..cols, unsafe { parts.claim(row * cols..(row + 1) * cols) });
    })?;
    Ok(out)
}
