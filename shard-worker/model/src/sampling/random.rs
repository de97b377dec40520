//! Random numbers that depend on a counter alone: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", 2011).

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// A number of `[0, 1)` for a seed and a position.
pub fn uniform(seed: u64, position: u32) -> f64 {
    fraction(seed, position) as f64 / 2f64.powi(64)
}

/// The same in units of 2^-64.
pub(crate) fn fraction(seed: u64, position: u32) -> u64 {
    let [a, b, ..] = philox([position, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
    // An f64 holds 53 bits.
    (u64::from(a) << 32 | u64::from(b)) >> 11 << 11
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [x, y] = [(0, 0), (1, 2)].map(|(m, c)| u64::from(MULTIPLIERS[m]) * u64::from(counter[c]));
        counter = [(y >> 32) as u32 ^ counter[1] ^ key[0], y as u32, (x >> 32) as u32 ^ counter[3] ^ key[1], x as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the reference implementation, Random123.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn numbers_are_spread_evenly_over_positions() {
        let mut bins = [0u32; 10];
        (0..10_000).for_each(|position| bins[(uniform(42, position) * 10.0) as usize] += 1);
        assert!(bins.iter().all(|&count| (900..1100).contains(&count)), "{bins:?}");
    }
}
