//! Files made to harm: they are refused or bounded, and cost no memory beyond the limits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::{fs, io::Cursor};

use image::{ImageFormat, RgbImage};
use tessera_prompt::{ImageError, ImageLimits, prepare, probe};
use tessera_types::{ModelSpec, VisionSpec};

fn vision() -> VisionSpec {
    VisionSpec { image_size: 64, ..ModelSpec::pixtral_12b().vision.unwrap() }
}

fn refusal(file: &[u8]) -> ImageError {
    prepare(file, &vision(), &ImageLimits::default()).err().unwrap()
}

fn photograph() -> Vec<u8> {
    let picture = RgbImage::from_fn(120, 90, |x, y| image::Rgb([(x * 2) as u8, (y * 2) as u8, (x ^ y) as u8]));
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Jpeg).unwrap();
    file.into_inner()
}

#[test]
fn a_frame_larger_than_its_screen_is_refused_by_the_limit() {
    let mut file = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    file.extend(b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;");
    let header = probe(&file, &ImageLimits::default()).unwrap();
    assert_eq!((header.width, header.height), (1, 1), "the header hides the frame");
    let error = refusal(&file).to_string();
    assert!(error.contains("imit"), "17 GB were asked for before the data was looked at: {error}");
}

#[test]
fn a_colour_profile_that_inflates_to_a_gigabyte_costs_no_memory() {
    let mut profile = b"x\0\0".to_vec();
    profile.extend(zeros(1 << 30));
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0]));
    file.extend(chunk(b"iCCP", &profile));
    // One grey pixel, stored.
    file.extend(chunk(b"IDAT", &[0x78, 1, 1, 2, 0, 0xFD, 0xFF, 0, 77, 0, 0x4F, 0, 0x4E]));
    file.extend(chunk(b"IEND", &[]));
    assert!(file.len() < 8 << 20);
    assert!(refusal(&file).to_string().contains("imit"));
    if let Some(peak) = peak_kilobytes() {
        assert!(peak < 512 << 10, "{peak} kB at the peak");
    }
}

#[test]
fn a_webp_whose_picture_is_larger_than_it_says_is_refused_before_it_is_decoded() {
    let chunk = |kind: &[u8], data: &[u8]| [kind, &(data.len() as u32).to_le_bytes(), data].concat();
    // A key frame of 16383 by 16383 pixels in a file of 10 by 10.
    let frame = [&[0x10, 2, 0, 0x9D, 1, 0x2A, 0xFF, 0x3F, 0xFF, 0x3F][..], &[0; 64]].concat();
    let extended = |flags: u8| chunk(b"VP8X", &[flags, 0, 0, 0, 9, 0, 0, 9, 0, 0]);
    let animated = [&[0, 0, 0, 0, 0, 0, 9, 0, 0, 9, 0, 0, 0, 0, 0, 0][..], &chunk(b"VP8 ", &frame)].concat();
    for chunks in [
        [extended(0), chunk(b"VP8 ", &frame)].concat(),
        [extended(2), chunk(b"ANIM", &[0; 6]), chunk(b"ANMF", &animated)].concat(),
    ] {
        let file = [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat();
        assert!(refusal(&file).to_string().contains("larger than it says"), "{}", refusal(&file));
    }
}

#[test]
fn a_photograph_that_breaks_off_is_refused() {
    let whole = photograph();
    assert!(prepare(&whole, &vision(), &ImageLimits::default()).is_ok());
    for kept in [whole.len() / 2, whole.len() - 2] {
        assert!(refusal(&whole[..kept]).to_string().contains("breaks off"), "{kept} of {}", whole.len());
    }
}

#[test]
fn a_thumbnails_end_is_not_the_photographs() {
    let photograph = photograph();
    let (start, rest) = photograph.split_at(2);
    let with_thumbnail = |rest: &[u8]| [start, &[0xFF, 0xE1, 0, 6, 0xFF, 0xDA, 0xFF, 0xD9], rest].concat();
    assert!(prepare(&with_thumbnail(rest), &vision(), &ImageLimits::default()).is_ok());
    assert!(refusal(&with_thumbnail(&rest[..rest.len() / 2])).to_string().contains("breaks off"));
}

/// The process's most memory so far, where the system tells it.
fn peak_kilobytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// At least `length` zero bytes as a zlib stream: a literal, then copies of 258, in the fixed Huffman code.
fn zeros(length: usize) -> Vec<u8> {
    let copies = length.div_ceil(258);
    let mut bits = Bits { bytes: vec![0x78, 1], held: 0, count: 0 };
    bits.push(0b011, 3);
    bits.push(0b0000_1100, 8);
    for _ in 0..copies {
        // Length code 285, distance code 0; Huffman codes go in from their highest bit.
        bits.push(0b1010_0011, 8);
        bits.push(0, 5);
    }
    bits.push(0, 7);
    bits.push(0, 7);
    let adler = ((1 + 258 * copies as u32) % 65521) << 16 | 1;
    bits.bytes.extend(adler.to_be_bytes());
    bits.bytes
}

/// Bits from the lowest up.
struct Bits {
    bytes: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, bits: u32) {
        self.held |= value << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind.as_slice(), data].concat();
    let mut crc = !0_u32;
    for byte in &body {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    [&(data.len() as u32).to_be_bytes(), body.as_slice(), &(!crc).to_be_bytes()].concat()
}
