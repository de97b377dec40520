//! A rank's slice of a tensor in a checkpoint, before the device lays it out its own way.

use std::ops::Range;

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

/// A slice of a 2-D tensor `[_, stride]` that lies in a mapped file: chosen rows, and a run of columns of each.
/// A vector is one row.
#[derive(Clone, Debug)]
pub struct MatrixSource<'a> {
    /// The whole tensor's bytes, little-endian; only the slice's are touched.
    pub bytes: &'a [u8],
    /// What they are.
    pub dtype: SourceDtype,
    /// Numbers from one row of the tensor to the next.
    pub stride: usize,
    /// Rows of the tensor in the order wanted (permuted for rotary pairs where the layout asks for it).
    pub rows: Vec<u32>,
    /// Columns wanted of each row.
    pub columns: Range<usize>,
}
