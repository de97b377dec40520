//! How much memory it takes to decode a file, at most and beside the file itself, told by its header.
//!
//! Follows what the decoders behind the `image` crate allocate; tests/memory.rs holds it against what they do.

use image::{ColorType, ImageFormat};

use super::{jpeg, webp};

/// Of any file: metadata as far as it is read, windows of decompressors, tables, rows on their way to the encoder.
const FIXED: u64 = super::decode::METADATA_BYTES + (4 << 20);
/// Rows that a PNG's decoder has in hand: some six, in a buffer that grows by doubling.
const PNG_ROWS: u64 = 24;
/// The most pixels of a JPEG's side that are decoded together: four blocks of eight.
const JPEG_UNIT: u32 = 32;
/// Rows of such units in all stages of a JPEG's decoder, a pixel of width and a component.
const JPEG_ROWS: u64 = 160;
/// A coefficient of a JPEG; all are kept where they come in several scans.
const COEFFICIENT: u64 = 2;
/// A lossless WebP says in a byte how to make trees of codes of so many at most: a table of 1024 entries of 4 bytes takes
/// 15 bytes of the file, two nodes of 16 bytes for a symbol that is not in it half a bit.
const TREES: u64 = 560;
/// A GIF's first frame may be larger than its screen, up to this.
const SMALL_FRAME: u64 = 4 << 20;

/// A picture as its header tells it.
pub(super) struct Picture {
    pub(super) format: ImageFormat,
    pub(super) width: u32,
    pub(super) height: u32,
    /// As the decoder hands it out.
    pub(super) color: ColorType,
}

impl Picture {
    fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Bytes that decoding `file` takes at most.
    pub(super) fn cost(&self, file: &[u8]) -> u64 {
        let decoded = self.pixels() * u64::from(self.color.bytes_per_pixel());
        let length = file.len() as u64;
        let beside = match self.format {
            ImageFormat::Png => PNG_ROWS * u64::from(self.width) * u64::from(self.color.bytes_per_pixel()),
            ImageFormat::Jpeg => self.jpeg(jpeg::frame(file, self.color == ColorType::L8)) + length,
            ImageFormat::WebP => self.webp(webp::Contents::of(file)) + length,
            // And a number into its palette a pixel.
            _ => self.gif_frame() / 4 * 5,
        };
        (decoded + beside).max(self.pixels() * converting(self.color)) + FIXED
    }

    fn jpeg(&self, frame: jpeg::Frame) -> u64 {
        let [width, height] = [self.width, self.height].map(|side| u64::from(side.next_multiple_of(JPEG_UNIT)));
        let coefficients = if frame.many_scans { COEFFICIENT * width * height } else { 0 };
        u64::from(frame.components) * (coefficients + JPEG_ROWS * width)
    }

    fn webp(&self, contents: webp::Contents) -> u64 {
        // Lossy: planes of a full and two quarter sizes, and what is known of each 16 by 16 pixels. Lossless: four colours,
        // and a quarter as much for what undoes its predictions. An animation: a canvas and a frame besides; alpha: itself.
        let a_pixel = if contents.extended { 16 } else { 6 };
        a_pixel * self.pixels() + TREES * contents.lossless_bytes
    }

    /// Bytes that a GIF's first frame may take.
    pub(super) fn gif_frame(&self) -> u64 {
        (4 * self.pixels()).max(SMALL_FRAME)
    }
}

/// Bytes a pixel that are held at once while what was decoded becomes red, green and blue; see rgb.rs.
fn converting(color: ColorType) -> u64 {
    match color {
        ColorType::Rgb8 => 3,
        ColorType::L8 => 1 + 3,
        ColorType::L16 => 2 + 3,
        // What is transparent is laid on white from four colours.
        ColorType::La8 | ColorType::La16 | ColorType::Rgba8 => 4 + 3,
        ColorType::Rgb16 => 6 + 3,
        _ => 8 + 4,
    }
}
