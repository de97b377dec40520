//! Files to red, green and blue. The header is looked at before anything is decoded.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::{ImageError, cost::Picture, jpeg, rgb, webp};

/// What may be allocated for what stands beside the pixels: more than any colour profile.
pub(super) const METADATA_BYTES: u64 = 4 << 20;

/// What a file may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of the file.
    pub max_bytes: usize,
    /// Width times height.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_bytes: 32 << 20, max_pixels: 64 << 20 }
    }
}

/// What a file's header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// Bytes that decoding takes at most, beside the file and the pixels that come out of [`prepare`](super::prepare).
    pub decoding_bytes: u64,
}

/// Reads the header; its picture is within the limits.
pub fn probe(file: &[u8], limits: &ImageLimits) -> Result<Header, ImageError> {
    let (picture, _) = open(file, limits)?;
    Ok(Header { width: picture.width, height: picture.height, decoding_bytes: picture.cost(file) })
}

pub(super) fn decode(file: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let (Picture { format, .. }, decoder) = open(file, limits)?;
    if format == ImageFormat::Jpeg && !jpeg::is_whole(file) {
        return Err(ImageError::Decode { format: name(format), problem: "it breaks off".into() });
    }
    let decoded = DynamicImage::from_decoder(decoder).map_err(|error| broken(format, &error))?;
    let stored = if format == ImageFormat::Png { rgb::Stored::of_png(file) } else { rgb::Stored::AsDecoded };
    Ok(rgb::to_rgb(decoded, stored))
}

fn open<'f>(file: &'f [u8], limits: &ImageLimits) -> Result<(Picture, impl ImageDecoder + 'f), ImageError> {
    if file.len() > limits.max_bytes {
        return Err(ImageError::Bytes { bytes: file.len(), limit: limits.max_bytes });
    }
    let format = image::guess_format(file).map_err(|_| ImageError::Format)?;
    if !matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Gif) {
        return Err(ImageError::Format);
    }
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    // A header's colour profile is inflated as it is read. Sides may be long: the bound on pixels below is what counts.
    reader.limits(allocating(METADATA_BYTES));
    let mut decoder = reader.into_decoder().map_err(|error| broken(format, &error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::Pixels { width, height, limit: limits.max_pixels });
    }
    if width == 0 || height == 0 {
        return Err(ImageError::Decode { format: name(format), problem: "it has no pixels".into() });
    }
    let picture = Picture { format, width, height, color: decoder.color_type() };
    if format == ImageFormat::WebP && webp::Contents::of(file).lossy_pixels > u64::from(width) * u64::from(height) {
        return Err(ImageError::Decode { format: name(format), problem: "its picture is larger than it says".into() });
    }
    // Heeded by the decoder of GIFs alone, whose first frame may be larger than the screen that its header tells.
    decoder.set_limits(allocating(picture.gif_frame())).map_err(|error| broken(format, &error))?;
    Ok((picture, decoder))
}

fn allocating(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

fn broken(format: ImageFormat, error: &image::ImageError) -> ImageError {
    ImageError::Decode { format: name(format), problem: error.to_string() }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::WebP => "WebP",
        _ => "GIF",
    }
}
