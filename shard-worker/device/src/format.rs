//! What numbers are kept in.

/// The numbers weights and the cache are kept in. Arithmetic is f32 on CPUs whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats: what the golden values are checked in.
    F32,
    /// bfloat16: half the memory and bandwidth.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Fewer bits than the dtype's, for weights that bear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// 8-bit floats, e4m3 of the OCP's specification, with an f32 scale for each output: the row's largest number becomes 448.
    Fp8,
}

/// What weights are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightFormat {
    /// All that are not quantised.
    pub dtype: Dtype,
    /// How those that may be quantised are.
    pub quantization: Option<Quantization>,
}

impl From<Dtype> for WeightFormat {
    fn from(dtype: Dtype) -> Self {
        Self { dtype, quantization: None }
    }
}

impl WeightFormat {
    /// Numbers that kernels take at a time of a quantised row.
    const RUN: usize = 16;

    /// How a matrix that may be quantised is, which has `inner` numbers in a row. Rows that are no whole runs stay as they are.
    pub(crate) fn quantization_of(self, inner: usize) -> Option<Quantization> {
        self.quantization.filter(|_| inner.is_multiple_of(Self::RUN))
    }

    /// Bytes of a matrix that may be quantised, `[out, inner]`, with its scales.
    pub fn quantisable_bytes(self, out: usize, inner: usize) -> usize {
        match self.quantization_of(inner) {
            None => out * inner * self.dtype.bytes(),
            Some(Quantization::Fp8) => out * (inner + size_of::<f32>()),
        }
    }
}
