//! What a decoder gives, as 8-bit red, green and blue: the way Pillow converts it for the reference.

use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};

/// How a file stores its pixels, where Pillow's conversion depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// The decoded pixels tell all.
    AsDecoded,
    /// Colour without an alpha channel: a colour declared transparent is seen all the same.
    Colour,
    /// 16-bit grey: saturates at 255, where 16-bit colour keeps its upper eight bits.
    Grey16,
}

impl Stored {
    /// From the bit depth and colour type of a PNG's first chunk, IHDR.
    pub(super) fn of_png(file: &[u8]) -> Self {
        match file.get(24..26) {
            Some([_, 2]) => Self::Colour,
            Some([16, 0]) => Self::Grey16,
            _ => Self::AsDecoded,
        }
    }
}

pub(super) fn to_rgb(decoded: DynamicImage, stored: Stored) -> RgbImage {
    match stored {
        Stored::AsDecoded => on_white(eight_bit(decoded)),
        Stored::Colour => eight_bit(decoded).into_rgb8(),
        Stored::Grey16 => {
            let grey = decoded.into_luma16();
            let mut rgb = RgbImage::new(grey.width(), grey.height());
            for (out, pixel) in rgb.pixels_mut().zip(grey.pixels()) {
                out.0 = [pixel.0[0].min(255) as u8; 3];
            }
            rgb
        }
    }
}

/// Transparent pixels let white through, blended in whole numbers and rounded.
fn on_white(decoded: DynamicImage) -> RgbImage {
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

/// Keeps the upper eight of 16 bits a channel.
fn eight_bit(decoded: DynamicImage) -> DynamicImage {
    fn upper(values: &[u16]) -> Vec<u8> {
        values.iter().map(|value| (value >> 8) as u8).collect()
    }
    let (width, height) = (decoded.width(), decoded.height());
    let kept = match &decoded {
        DynamicImage::ImageLuma16(i) => GrayImage::from_raw(width, height, upper(i)).map(DynamicImage::from),
        DynamicImage::ImageLumaA16(i) => GrayAlphaImage::from_raw(width, height, upper(i)).map(DynamicImage::from),
        DynamicImage::ImageRgb16(i) => RgbImage::from_raw(width, height, upper(i)).map(DynamicImage::from),
        DynamicImage::ImageRgba16(i) => RgbaImage::from_raw(width, height, upper(i)).map(DynamicImage::from),
        _ => None,
    };
    kept.unwrap_or(decoded)
}
