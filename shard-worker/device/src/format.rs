//! What numbers are kept in.

/// The numbers weights are kept in, and the cache where nothing else is said. Arithmetic is f32 on CPUs whatever this says.
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

/// What keys and values are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheDtype {
    /// As they were computed.
    Plain(Dtype),
    /// 8-bit floats, e4m3, made of bf16 ones, with an f32 scale for each token's key and value of each head: its largest number
    /// becomes 448. So what is kept of a token depends on that token alone.
    Fp8,
}

impl From<Dtype> for CacheDtype {
    fn from(dtype: Dtype) -> Self {
        Self::Plain(dtype)
    }
}

impl CacheDtype {
    /// What a key or a value is before it is stored.
    pub fn computed(self) -> Dtype {
        match self {
            Self::Plain(dtype) => dtype,
            Self::Fp8 => Dtype::Bf16,
        }
    }

    /// Bytes of a key or a value of `width` numbers, with its scale.
    pub fn bytes(self, width: usize) -> usize {
        match self {
            Self::Plain(dtype) => width * dtype.bytes(),
            Self::Fp8 => width + size_of::<f32>(),
        }
    }
}

/// What a rank keeps its numbers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Weights.
    pub weights: WeightFormat,
    /// Keys and values.
    pub cache: CacheDtype,
}

impl<F: Into<WeightFormat>> From<F> for Formats {
    /// Keys and values in the weights' dtype.
    fn from(weights: F) -> Self {
        let weights = weights.into();
        Self { weights, cache: weights.dtype.into() }
    }
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

#[cfg(test)]
mod tests {
    use tessera_types::BLOCK_TOKENS;

    use super::*;
    use crate::CacheShape;

    #[test]
    fn a_cache_in_fp8_takes_a_byte_a_number_and_four_a_scale() {
        let shape = |dtype| CacheShape { layers: 40, kv_heads: 8, head_dim: 128, blocks: 7, dtype };
        let keys_and_values = 2 * 40 * 8 * 7 * BLOCK_TOKENS;
        assert_eq!(shape(CacheDtype::Fp8).bytes(), keys_and_values * (128 + 4));
        assert_eq!(shape(Dtype::Bf16.into()).bytes(), keys_and_values * 256);
        assert_eq!(shape(Dtype::F32.into()).bytes(), keys_and_values * 512);
    }
}
