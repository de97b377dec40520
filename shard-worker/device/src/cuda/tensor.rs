//! Activations on the device.

use super::workspace::Region;
use crate::DeviceError;

/// What the numbers of a matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// f32: the residual stream and logits.
    Full,
    /// bf16: what tensor cores multiply.
    Working,
}

impl Numbers {
    pub(super) fn size(self) -> usize {
        match self {
            Self::Full => 4,
            Self::Working => 2,
        }
    }
}

/// What a matrix takes.
pub(super) fn bytes(rows: usize, cols: usize, numbers: Numbers) -> Result<usize, DeviceError> {
    let bytes = rows.checked_mul(cols).and_then(|count| count.checked_mul(numbers.size()));
    bytes.ok_or_else(|| DeviceError::Shape { operation: "tensor", detail: format!("{rows} rows of {cols} numbers") })
}

/// A matrix `[rows, cols]`, row-major, in the device's workspace.
pub struct CudaTensor {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) numbers: Numbers,
    pub(super) region: Region,
}

impl CudaTensor {
    pub(super) fn address(&self) -> u64 {
        self.region.address()
    }

    pub(super) fn len(&self) -> usize {
        self.rows * self.cols
    }

    pub(super) fn bytes(&self) -> usize {
        self.len() * self.numbers.size()
    }
}
