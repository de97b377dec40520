//! Which kernel a product goes through. All give a row the same bits, so that time alone decides.

/// Rows up to which a product is bound by reading the weights.
const FEW_ROWS: usize = 64;
/// Features and rows of a tile, and the rows of a wide one.
pub(super) const TILE_FEATURES: usize = 128;
pub(super) const TILE_ROWS: usize = 128;
pub(super) const WIDE_ROWS: usize = 256;
/// Segments of the inner dimension, and what their bounds are multiples of.
pub(super) const SEGMENTS: usize = 8;
const CHUNK: usize = 64;
/// Parts that are worth trying; others have as many segments in their longest as one of these.
const PARTS: [usize; 4] = [2, 3, 4, 8];
/// Bytes that the sums of segments may take.
const PARTIAL_BYTES: usize = 64 << 20;

// Times are counted in what a processor takes for a chunk of a tile, about 0.7 µs on an H100 by the kernels' headers. Nothing
// of this is measured.

/// A chunk of a wide tile.
const WIDE_STEP: f64 = 2.0 * 400.0 / 480.0;
/// Numbers of the output whose segments' sums a processor's share of the memory writes and reads meanwhile.
const JOINED: f64 = 256.0;
/// A second launch.
const LAUNCH: f64 = 4.0;

/// A way to compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// By groups of features, for few rows.
    Few,
    /// A block a tile.
    Tiles,
    /// A block a tile of twice the rows, where blocks may have the shared memory.
    Wide,
    /// So many blocks a tile, each with some segments of the inner dimension, and a kernel that joins them.
    Parts(usize),
}

impl Schedule {
    /// The fastest way for `rows` rows by `features` of `inner` numbers on so many processors.
    pub(super) fn of([rows, features, inner]: [usize; 3], processors: usize, wide: bool) -> Self {
        if rows <= FEW_ROWS {
            return Self::Few;
        }
        let parts =
            PARTS.map(Self::Parts).into_iter().filter(|_| partial_numbers(rows, features) * size_of::<f32>() <= PARTIAL_BYTES);
        let ways = [Self::Tiles].into_iter().chain(wide.then_some(Self::Wide)).chain(parts);
        let time = |way: &Self| way.time([rows, features, inner], processors);
        ways.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(Self::Tiles)
    }

    fn time(self, [rows, features, inner]: [usize; 3], processors: usize) -> f64 {
        let chunks = inner.div_ceil(CHUNK);
        let waves = |rows_of_tile: usize, parts: usize| (tiles(rows, rows_of_tile, features) * parts).div_ceil(processors) as f64;
        match self {
            Self::Few => 0.0,
            Self::Tiles => waves(TILE_ROWS, 1) * chunks as f64,
            Self::Wide => waves(WIDE_ROWS, 1) * chunks as f64 * WIDE_STEP,
            Self::Parts(parts) => {
                let longest = chunks.div_ceil(SEGMENTS) * SEGMENTS.div_ceil(parts);
                let join = (rows * features) as f64 / (JOINED * processors as f64);
                waves(TILE_ROWS, parts) * longest as f64 + join + LAUNCH
            }
        }
    }
}

/// Tiles of so many rows.
pub(super) fn tiles(rows: usize, rows_of_tile: usize, features: usize) -> usize {
    rows.div_ceil(rows_of_tile) * features.div_ceil(TILE_FEATURES)
}

/// Numbers that the sums of all segments take, as `gemm_parts.cuh` lays them out.
pub(super) fn partial_numbers(rows: usize, features: usize) -> usize {
    SEGMENTS * (rows * features).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const H100: usize = 132;

    proptest! {
        #[test]
        fn what_is_chosen_fits_the_device_and_its_workspace(
            rows in 1..10_000_usize, features in 1..150_000_usize, inner in 8..20_000_usize, processors in 1..200_usize, wide: bool,
        ) {
            let chosen = Schedule::of([rows, features, inner], processors, wide);
            prop_assert_eq!(chosen == Schedule::Few, rows <= 64);
            prop_assert!(wide || chosen != Schedule::Wide);
            if let Schedule::Parts(parts) = chosen {
                prop_assert!((2..=SEGMENTS).contains(&parts));
                prop_assert!(partial_numbers(rows, features) * 4 <= 64 << 20);
            }
        }
    }

    #[test]
    fn a_device_with_more_processors_than_tiles_shares_out_the_segments() {
        // 40 tiles of Pixtral's output projections of attention and of the feed-forward layer.
        for inner in [4096, 14_336] {
            assert!(matches!(Schedule::of([128, 5120, inner], H100, true), Schedule::Parts(_)), "{inner}");
        }
        // 224 tiles keep all processors busy.
        assert_eq!(Schedule::of([128, 28_672, 5120], 112, true), Schedule::Tiles);
        // Too short to be worth a second launch.
        assert_eq!(Schedule::of([65, 128, 256], H100, true), Schedule::Tiles);
    }

    #[test]
    fn wide_tiles_are_for_products_that_fill_them() {
        // 160 tiles take two rounds, 80 wide ones a longer one.
        assert_eq!(Schedule::of([511, 5120, 5120], H100, true), Schedule::Wide);
        assert_eq!(Schedule::of([8192, 28_672, 5120], H100, true), Schedule::Wide);
        assert_eq!(Schedule::of([8192, 28_672, 5120], H100, false), Schedule::Tiles);
        // 512 rows alone do not make them so: 48 wide tiles would leave most processors without.
        assert_ne!(Schedule::of([512, 3072, 5120], H100, true), Schedule::Wide);
    }

    #[test]
    fn tiles_and_segments_are_those_of_the_kernels() {
        let tile = include_str!("../../cuda/kernels/gemm_tile.cuh");
        assert!(tile.contains("constexpr int TILE_FEATURES = 128;"));
        assert!(tile.contains("using Tile = TileShape<128, 64, 3, 4, false>;"));
        assert!(tile.contains("using Tile8 = TileShape<128, 64, 4, 4, false>;"));
        assert!(tile.contains("using WideTile = TileShape<256, 32, 4, 2, true>;"));
        let gemm = include_str!("../../cuda/kernels/gemm.cuh");
        assert!(gemm.contains("constexpr int GEMM_SEGMENTS = 8;") && gemm.contains("constexpr int GEMM_CHUNK = 64;"));
    }
}
