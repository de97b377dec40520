//! Made-up weights: a number is a function of its tensor, its row and its column, whatever the slice.

use half::bf16;
use tessera_types::mix;

use crate::source::Number;

/// Numbers that one hash makes, one a byte.
const LANES: usize = 8;
/// Numbers that a byte can choose among.
const LEVELS: usize = 256;

/// How the numbers of a tensor are made up: a hash of row and column chooses among evenly spaced bf16 numbers. Devices may
/// make them by themselves; all make the same bits.
#[derive(Clone, Debug)]
pub struct MadeUp {
    pub(crate) key: u64,
    pub(crate) centre: f32,
    pub(crate) spread: f32,
    levels: Box<[bf16; LEVELS]>,
}

impl MadeUp {
    /// Those of the tensor that `key` stands for: up to `spread` away from `centre`.
    pub fn new(key: u64, centre: f32, spread: f32) -> Self {
        let half = LEVELS as f32 / 2.0;
        let level = |level: usize| bf16::from_f32(centre + spread * (level as f32 + 0.5 - half) / half);
        Self { key, centre, spread, levels: Box::new(std::array::from_fn(level)) }
    }

    /// Writes a row's numbers from column `first` on.
    pub fn fill(&self, row: u64, first: usize, out: &mut [bf16]) {
        self.read(row, first, out);
    }

    pub(crate) fn read<N: Number>(&self, row: u64, first: usize, mut out: &mut [N]) {
        let row = mix(self.key ^ row);
        let (mut group, mut skip) = (first / LANES, first % LANES);
        while !out.is_empty() {
            let hash = mix(row.wrapping_add(group as u64)).to_le_bytes();
            let lanes = &hash[skip..];
            let (head, rest) = out.split_at_mut(lanes.len().min(out.len()));
            for (number, lane) in head.iter_mut().zip(lanes) {
                *number = N::from_bf16(self.levels[usize::from(*lane)]);
            }
            (out, group, skip) = (rest, group + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_row_has_the_numbers_of_the_whole() {
        let how = MadeUp::new(77, 0.0, 0.25);
        let mut whole = [bf16::ZERO; 53];
        how.fill(9, 0, &mut whole);
        for (first, end) in [(0, 53), (0, 1), (7, 9), (8, 16), (13, 50), (52, 53), (20, 20)] {
            let mut part = vec![0.0_f32; end - first];
            how.read(9, first, &mut part);
            let wanted: Vec<f32> = whole[first..end].iter().map(|number| number.to_f32()).collect();
            assert_eq!(part, wanted);
        }
    }

    #[test]
    fn a_number_is_the_level_that_a_byte_of_the_hash_names() {
        let mut row = [0.0_f32; 16];
        MadeUp::new(5, 1.0, 0.5).read(3, 0, &mut row);
        for (column, number) in row.into_iter().enumerate() {
            let byte = mix(mix(5 ^ 3) + column as u64 / 8) >> (8 * (column % 8)) & 0xff;
            let exact = 1.0 + 0.5 * (byte as f64 + 0.5 - 128.0) / 128.0;
            assert!((f64::from(number) - exact).abs() <= 1.0 / 256.0, "{number} is not {exact}");
        }
    }
}
