//! A rank's slice of one tensor: what is wanted, and what was read.

use std::ops::Range;

use tessera_device::{MadeUp, MatrixSource, Origin, SourceDtype, WeightFormat};

/// What a rank wants of one tensor, by Mistral's name and in Mistral's order of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSlice {
    /// The tensor's name in the Mistral layout.
    pub name: String,
    /// The whole tensor's shape. Seen as a matrix `[shape[0], the rest]`; a vector is one row.
    pub shape: Vec<usize>,
    /// Rows wanted.
    pub rows: Range<usize>,
    /// Columns wanted of each row.
    pub columns: Range<usize>,
    /// Width of a head, where rows are rotary pairs whose order depends on the layout; the rows are whole heads.
    pub rotary_head: Option<usize>,
    /// Whether the weight bears fewer bits than the others.
    pub quantisable: bool,
}

impl TensorSlice {
    /// All of a tensor of two or more dimensions.
    pub fn matrix(name: impl Into<String>, shape: &[usize]) -> Self {
        let columns = shape[1..].iter().product();
        let (name, shape, rows) = (name.into(), shape.to_vec(), 0..shape[0]);
        Self { name, shape, rows, columns: 0..columns, rotary_head: None, quantisable: false }
    }

    /// All of a vector.
    pub fn vector(name: impl Into<String>, len: usize) -> Self {
        Self { name: name.into(), shape: vec![len], rows: 0..1, columns: 0..len, rotary_head: None, quantisable: false }
    }

    /// Only these rows.
    pub fn rows(self, rows: Range<usize>) -> Self {
        Self { rows, ..self }
    }

    /// Only these columns.
    pub fn columns(self, columns: Range<usize>) -> Self {
        Self { columns, ..self }
    }

    /// Rows are rotary pairs in heads of this width.
    pub fn rotary(self, head_dim: usize) -> Self {
        Self { rotary_head: Some(head_dim), ..self }
    }

    /// Whether it bears fewer bits than the others.
    pub fn quantisable(self, quantisable: bool) -> Self {
        Self { quantisable, ..self }
    }

    /// Bytes that a device takes for it.
    pub fn kept_bytes(&self, format: WeightFormat) -> usize {
        let (out, inner) = (self.rows.len(), self.columns.len());
        if self.quantisable { format.quantisable_bytes(out, inner) } else { out * inner * format.dtype.bytes() }
    }

    /// Numbers in a row of the whole tensor.
    pub fn stride(&self) -> usize {
        if self.shape.len() == 1 { self.shape[0] } else { self.shape[1..].iter().product() }
    }

    /// Numbers wanted.
    pub fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A slice that was read: rows of exactly the columns wanted.
#[derive(Clone, Debug)]
pub struct SliceBytes {
    /// Rows one behind the other, little-endian.
    pub bytes: Vec<u8>,
    /// What the numbers are.
    pub dtype: SourceDtype,
    /// Numbers in a row.
    pub columns: usize,
    /// Which rows of `bytes` make the slice, in Mistral's order.
    pub order: Vec<u32>,
}

impl SliceBytes {
    /// As the device wants it.
    pub fn source(&self) -> MatrixSource<'_> {
        MatrixSource {
            origin: Origin::Stored { bytes: &self.bytes, dtype: self.dtype },
            stride: self.columns,
            rows: self.order.clone(),
            columns: 0..self.columns,
        }
    }
}

/// A slice that a device can load.
#[derive(Clone, Debug)]
pub enum Loadable {
    /// It was read.
    Read(SliceBytes),
    /// Whoever loads it makes it up.
    MadeUp {
        /// How.
        how: MadeUp,
        /// Numbers in a row of the whole tensor.
        stride: usize,
        /// Rows of the tensor.
        rows: Vec<u32>,
        /// Columns of each.
        columns: Range<usize>,
    },
}

impl Loadable {
    /// As the device wants it.
    pub fn source(&self) -> MatrixSource<'_> {
        match self {
            Self::Read(read) => read.source(),
            Self::MadeUp { how, stride, rows, columns } => {
                let (rows, columns) = (rows.clone(), columns.clone());
                MatrixSource { origin: Origin::MadeUp(how), stride: *stride, rows, columns }
            }
        }
    }

    /// The same slice with its last row repeated until there are `wanted`.
    pub fn padded(mut self, wanted: usize) -> Self {
        let (Self::Read(SliceBytes { order: rows, .. }) | Self::MadeUp { rows, .. }) = &mut self;
        if let Some(&last) = rows.last() {
            rows.resize(wanted.max(rows.len()), last);
        }
        self
    }
}

/// Hugging Face's rows in Mistral's order: its permutation for rotate-half puts the first numbers of all of a head's
/// pairs before the second ones, so Mistral's row `2i + j` of a head is its row `j * head_dim / 2 + i`.
pub(crate) fn interleaved(rows: usize, head_dim: usize) -> Vec<u32> {
    let row = |r: usize| (r / head_dim) * head_dim + (r % 2) * (head_dim / 2) + (r % head_dim) / 2;
    (0..rows).map(|r| row(r) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotate_half_rows_become_pairs() {
        assert_eq!(interleaved(8, 4), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(interleaved(6, 6), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn padding_repeats_the_last_row() {
        let read = SliceBytes { bytes: vec![0; 8], dtype: SourceDtype::F32, columns: 1, order: vec![0, 1] };
        assert_eq!(Loadable::Read(read).padded(4).source().rows, [0, 1, 1, 1]);
        let made_up = Loadable::MadeUp { how: MadeUp::new(1, 0.0, 1.0), stride: 9, rows: vec![7, 8], columns: 3..5 };
        assert_eq!(made_up.padded(3).source().rows, [7, 8, 8]);
    }
}
