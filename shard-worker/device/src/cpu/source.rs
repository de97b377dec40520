//! Reading a rank's slice of a checkpoint.

use super::buffer::Buffer;
use super::element::Element;
use super::parts::Parts;
use super::pool::Pool;
use crate::{DeviceError, MatrixSource};

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
