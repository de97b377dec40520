//! Images: from a file's bytes to what the vision encoder takes.
//!
//! EXIF orientation is ignored, as the reference ignores it.

mod cost;
mod decode;
mod grid;
mod jpeg;
mod resize;
mod rgb;
mod webp;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tessera_types::{Grid, ImageKey, VisionSpec};

pub use decode::{Header, ImageLimits, probe};
pub use grid::grid_of;

/// Mean of the training images' channels, of values in `[0, 1]`.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Their standard deviation.
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A file that cannot be taken as an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No known format.
    #[error("not a PNG, JPEG, WebP or GIF file")]
    Format,
    /// The file breaks off, or breaks its format's rules.
    #[error("the {format} file cannot be decoded: {problem}")]
    Decode {
        /// Its format.
        format: &'static str,
        /// What the decoder said.
        problem: String,
    },
    /// More bytes than allowed.
    #[error("{bytes} bytes, more than the {limit} allowed")]
    Bytes {
        /// The file's.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// More pixels than allowed; found from the header alone.
    #[error("{width} by {height} pixels, more than the {limit} allowed")]
    Pixels {
        /// Of the header.
        width: u32,
        /// Of the header.
        height: u32,
        /// The bound on their product.
        limit: u64,
    },
}

/// An image ready for the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedImage {
    /// Hash of the file and the grid.
    pub key: ImageKey,
    /// Patches.
    pub grid: Grid,
    /// Normalised pixels, little-endian f32, planar `[3, rows * patch, cols * patch]`.
    pub pixels: Bytes,
    /// As given, in pixels.
    pub width: u32,
    /// As given, in pixels.
    pub height: u32,
}

/// Decodes a file, lays it on white, scales it to whole patches and normalises it.
pub fn prepare(file: &[u8], spec: &VisionSpec, limits: &ImageLimits) -> Result<PreparedImage, ImageError> {
    let picture = decode::decode(file, limits)?;
    let (width, height) = picture.dimensions();
    let grid = grid_of(width, height, spec);
    let (target_width, target_height) = (grid.cols as usize * spec.patch_size, grid.rows as usize * spec.patch_size);
    let mut planes = Planes::new(target_width, target_height);
    resize::cubic(picture.as_raw(), (width as usize, height as usize), (target_width, target_height), |row| planes.push(row));
    Ok(PreparedImage { key: key_of(file, grid), grid, pixels: Bytes::from_owner(planes), width, height })
}

fn key_of(file: &[u8], grid: Grid) -> ImageKey {
    let hash = Sha256::new().chain_update(file).chain_update(grid.rows.to_le_bytes()).chain_update(grid.cols.to_le_bytes());
    ImageKey(hash.finalize().into())
}

/// Normalised pixels, filled row by row; lent as bytes, little-endian on every machine Tessera runs on.
struct Planes {
    values: Vec<f32>,
    plane: usize,
    filled: usize,
}

impl Planes {
    fn new(width: usize, height: usize) -> Self {
        Self { values: vec![0.0; 3 * width * height], plane: width * height, filled: 0 }
    }

    /// Takes one row of interleaved values of 0 to 255.
    fn push(&mut self, row: &[f32]) {
        let width = row.len() / 3;
        for channel in 0..3 {
            let (scale, shift) = (1.0 / (255.0 * STD[channel]), -MEAN[channel] / STD[channel]);
            let out = &mut self.values[channel * self.plane + self.filled..][..width];
            for (out, pixel) in out.iter_mut().zip(row.as_chunks::<3>().0) {
                *out = pixel[channel] * scale + shift;
            }
        }
        self.filled += width;
    }
}

impl AsRef<[u8]> for Planes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.values)
    }
}
