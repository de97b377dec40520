//! A rank's slice of a tensor in a checkpoint, before the device lays it out its own way.

use std::ops::Range;

use half::{bf16, f16};

use crate::{DeviceError, MadeUp};

/// How a checkpoint stores numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceDtype {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl SourceDtype {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Where a tensor's numbers come from.
#[derive(Clone, Debug)]
pub enum Origin<'a> {
    /// A checkpoint.
    Stored {
        /// The whole tensor's bytes, little-endian; only the slice's are touched.
        bytes: &'a [u8],
        /// What they are.
        dtype: SourceDtype,
    },
    /// Nowhere.
    MadeUp(&'a MadeUp),
}

/// A slice of a 2-D tensor `[_, stride]`: chosen rows, and a run of columns of each. A vector is one row.
#[derive(Clone, Debug)]
pub struct MatrixSource<'a> {
    /// The tensor's numbers.
    pub origin: Origin<'a>,
    /// Numbers from one row of the tensor to the next.
    pub stride: usize,
    /// Rows of the tensor in the order wanted (permuted for rotary pairs where the layout asks for it).
    pub rows: Vec<u32>,
    /// Columns wanted of each row.
    pub columns: Range<usize>,
}

impl MatrixSource<'_> {
    /// Columns wanted.
    pub(crate) fn cols(&self) -> usize {
        self.columns.len()
    }

    /// Fails where the slice does not lie inside the tensor's bytes.
    pub(crate) fn check(&self, operation: &'static str) -> Result<(), DeviceError> {
        let failed = |detail| Err(DeviceError::Shape { operation, detail });
        if self.columns.start > self.columns.end || self.columns.end > self.stride {
            return failed(format!("columns {:?} of rows of {}", self.columns, self.stride));
        }
        let (Some(last), Origin::Stored { bytes, dtype }) = (self.rows.iter().max(), &self.origin) else { return Ok(()) };
        let end = (*last as usize * self.stride).saturating_add(self.columns.end).saturating_mul(dtype.size());
        if end > bytes.len() {
            return failed(format!("row {last} of {} numbers ends at byte {end} of {}", self.stride, bytes.len()));
        }
        Ok(())
    }

    /// Part `columns` (counted from the slice's first) of its `row`th row.
    pub(crate) fn read<N: Number>(&self, row: usize, columns: Range<usize>, out: &mut [N]) {
        let first = self.columns.start + columns.start;
        match &self.origin {
            Origin::Stored { bytes, dtype } => {
                let start = self.rows[row] as usize * self.stride + first;
                read(&bytes[start * dtype.size()..(start + columns.len()) * dtype.size()], *dtype, out);
            }
            Origin::MadeUp(how) => how.read(self.rows[row].into(), first, out),
        }
    }
}

/// What a device keeps numbers in.
pub(crate) trait Number: Copy {
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    /// Exact.
    fn from_bf16(x: bf16) -> Self;
}

impl Number for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }

    fn from_bf16(x: bf16) -> Self {
        x.to_f32()
    }
}

impl Number for bf16 {
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }

    fn from_bf16(x: bf16) -> Self {
        x
    }
}

/// Reads little-endian numbers; `bytes` holds exactly `out.len()` of them.
fn read<N: Number>(bytes: &[u8], dtype: SourceDtype, out: &mut [N]) {
    match dtype {
        SourceDtype::F32 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = N::from_f32(f32::from_le_bytes(*bytes));
            }
        }
        SourceDtype::Bf16 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = N::from_bf16(bf16::from_le_bytes(*bytes));
            }
        }
        SourceDtype::F16 => {
            for (x, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = N::from_f32(f16::from_le_bytes(*bytes).to_f32());
            }
        }
    }
}
