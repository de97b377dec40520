//! Files to red, green and blue. The header is looked at before anything is decoded.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::ImageError;

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

/// Width and height as the header says them, within the limits.
pub fn probe(file: &[u8], limits: &ImageLimits) -> Result<(u32, u32), ImageError> {
    Ok(open(file, limits)?.1.dimensions())
}

pub(super) fn decode(file: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let (format, decoder) = open(file, limits)?;
    let decoded = DynamicImage::from_decoder(decoder).map_err(|error| broken(format, &error))?;
    Ok(on_white(decoded))
}

fn open<'f>(file: &'f [u8], limits: &ImageLimits) -> Result<(ImageFormat, impl ImageDecoder + 'f), ImageError> {
    if file.len() > limits.max_bytes {
        return Err(ImageError::Bytes { bytes: file.len(), limit: limits.max_bytes });
    }
    let format = image::guess_format(file).map_err(|_| ImageError::Format)?;
    if !matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Gif) {
        return Err(ImageError::Format);
    }
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    // The bound on pixels below is what counts; sides may be long.
    reader.no_limits();
    let decoder = reader.into_decoder().map_err(|error| broken(format, &error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::Pixels { width, height, limit: limits.max_pixels });
    }
    if width == 0 || height == 0 {
        return Err(ImageError::Decode { format: name(format), problem: "it has no pixels".into() });
    }
    Ok((format, decoder))
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

/// Transparent pixels let white through; the reference blends in whole numbers, rounded.
fn on_white(decoded: DynamicImage) -> RgbImage {
    let decoded = eight_bit(decoded);
    if !decoded.color().has_alpha() {
        return decoded.into_rgb8();
    }
    let rgba = decoded.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (out, pixel) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [colour @ .., alpha] = pixel.0;
        out.0 = colour.map(|value| {
            let mixed = 255 * (255 - u32::from(alpha)) + u32::from(value) * u32::from(alpha) + 128;
            (((mixed >> 8) + mixed) >> 8) as u8
        });
    }
    rgb
}

/// Of 16 bits a channel the reference keeps the upper eight.
fn eight_bit(decoded: DynamicImage) -> DynamicImage {
    fn upper(values: &[u16]) -> Vec<u8> {
        values.iter().map(|value| (value >> 8) as u8).collect()
    }
    let (width, height) = (decoded.width(), decoded.height());
    let kept = match &decoded {
        DynamicImage::ImageLuma16(i) => image::GrayImage::from_raw(width, height, upper(i)).map(DynamicImage::from),
        DynamicImage::ImageLumaA16(i) => image::GrayAlphaImage::from_raw(width, height, upper(i)).map(DynamicImage::from),
        DynamicImage::ImageRgb16(i) => RgbImage::from_raw(width, height, upper(i)).map(DynamicImage::from),
        DynamicImage::ImageRgba16(i) => image::RgbaImage::from_raw(width, height, upper(i)).map(DynamicImage::from),
        _ => None,
    };
    kept.unwrap_or(decoded)
}
