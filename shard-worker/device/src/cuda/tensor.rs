//! Activations on the device.

use super::workspace::Region;

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
