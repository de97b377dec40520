//! How many patches an image becomes.

use tessera_types::{Grid, VisionSpec};

/// Patches of an image of `width` by `height` pixels. Larger images are scaled down to `image_size`, smaller ones never up
/// beyond the next whole patch.
pub fn grid_of(width: u32, height: u32, spec: &VisionSpec) -> Grid {
    let (width, height, limit) = (f64::from(width), f64::from(height), spec.image_size as f64);
    let ratio = (height / limit).max(width / limit);
    let scale = |side: f64| if ratio > 1.0 { (side / ratio).round_ties_even().max(1.0) } else { side.max(1.0) };
    let patches = |side: f64| (scale(side) as u32).div_ceil(spec.patch_size as u32);
    Grid { rows: patches(height), cols: patches(width) }
}
