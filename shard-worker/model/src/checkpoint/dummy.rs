//! Made-up weights: a value is a function of its tensor's name, its row and its column, whatever the slice.

use half::bf16;
use tessera_device::{MadeUp, SourceDtype};
use tessera_types::{Fnv1a, ModelSpec, mix};

use super::{Fingerprint, Loadable, SliceBytes, TensorSlice};

/// Pseudo-random bf16 weights of a shape, uniform, with the variance of `1 / fan-in` that keeps activations of order 1.
#[derive(Clone, Debug)]
pub struct DummyWeights {
    spec: ModelSpec,
    seed: u64,
}

impl DummyWeights {
    /// Weights of `spec`; another seed makes others.
    pub fn new(spec: ModelSpec, seed: u64) -> Self {
        Self { spec, seed }
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut fingerprint = Fingerprint::of(format!("{:?}", self.spec).as_bytes());
        fingerprint.content(&self.seed.to_le_bytes());
        fingerprint
    }

    /// Makes a slice.
    pub fn read(&self, slice: &TensorSlice) -> SliceBytes {
        let (how, columns) = (self.made_up(slice), slice.columns.len());
        let mut numbers = vec![bf16::ZERO; slice.len()];
        for (row, numbers) in slice.rows.clone().zip(numbers.chunks_exact_mut(columns.max(1))) {
            how.fill(row as u64, slice.columns.start, numbers);
        }
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        SliceBytes { bytes, dtype: SourceDtype::Bf16, columns, order: (0..slice.rows.len() as u32).collect() }
    }

    /// The same for a device to make.
    pub(super) fn load(&self, slice: &TensorSlice) -> Loadable {
        let rows = slice.rows.clone().map(|row| row as u32).collect();
        Loadable::MadeUp { how: self.made_up(slice), stride: slice.stride(), rows, columns: slice.columns.clone() }
    }

    /// A norm's scales lie around 1.
    fn made_up(&self, slice: &TensorSlice) -> MadeUp {
        let is_norm = slice.name.ends_with("norm.weight") || slice.name.ends_with("ln_pre.weight");
        let (centre, spread) = if is_norm { (1.0, 0.1) } else { (0.0, (3.0 / slice.stride() as f32).sqrt()) };
        MadeUp::new(mix(self.seed ^ Fnv1a::of(slice.name.as_bytes())), centre, spread)
    }
}

/// Bytes a made-up slice has.
pub(super) fn bytes(slice: &TensorSlice) -> u64 {
    (slice.len() * SourceDtype::Bf16.size()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(slice: &SliceBytes) -> Vec<f32> {
        slice.bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }

    #[test]
    fn a_slice_has_the_values_of_the_whole() {
        let weights = DummyWeights::new(ModelSpec::bench_1b(), 3);
        let whole = TensorSlice::matrix("layers.0.attention.wo.weight", &[12, 22]);
        let all = values(&weights.read(&whole));
        for (rows, columns) in [(0..12, 0..22), (3..7, 0..22), (0..12, 5..11), (2..3, 7..8), (4..9, 20..22)] {
            let part = values(&weights.read(&whole.clone().rows(rows.clone()).columns(columns.clone())));
            let expected: Vec<f32> = rows.flat_map(|r| all[r * 22 + columns.start..r * 22 + columns.end].to_vec()).collect();
            assert_eq!(part, expected);
        }
    }

    #[test]
    fn values_differ_by_name_and_have_the_variance_of_one_over_fan_in() {
        let weights = DummyWeights::new(ModelSpec::bench_1b(), 3);
        let a = values(&weights.read(&TensorSlice::matrix("a", &[64, 256])));
        let b = values(&weights.read(&TensorSlice::matrix("b", &[64, 256])));
        assert_ne!(a, b);
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        let variance = a.iter().map(|v| v * v).sum::<f32>() / a.len() as f32;
        assert!(mean.abs() < 0.002, "{mean}");
        assert!((variance * 256.0 - 1.0).abs() < 0.05, "{variance}");
    }
}
