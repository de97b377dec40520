//! What a file's header says of the memory that decoding takes, held against what it does take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and say why")]

use std::{fs, io::Cursor, path::Path};

use image::{DynamicImage, ImageFormat};
use peak_alloc::PeakAlloc;
use tessera_prompt::{ImageLimits, prepare, probe};
use tessera_types::{ModelSpec, VisionSpec};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Rows of more bytes than metadata may have are refused.
const PIXELS: [(u32, u32); 3] = [(4000, 3000), (1, 12_000_000), (500_000, 24)];

/// What the header said, and what decoding took at the peak.
fn cost(file: &[u8]) -> (usize, usize) {
    let vision = VisionSpec { image_size: 64, ..ModelSpec::pixtral_12b().vision.unwrap() };
    let limits = ImageLimits::default();
    let said = probe(file, &limits).unwrap().decoding_bytes as usize;
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    // Files with a lie in their header end in an error, after all was allocated.
    let _ = prepare(file, &vision, &limits);
    (said, ALLOCATOR.peak_usage() - before)
}

/// Bounds from above, and not by far more than the decoder's own constants.
fn assert_bounds(name: &str, file: &[u8], most: f64) {
    let (said, took) = cost(file);
    println!("{name}: {said} said, {took} taken");
    assert!(took <= said, "{name} took {took} of {said}");
    assert!(said as f64 <= most * took as f64 + (16 << 20) as f64, "{name} took {took}, far less than {said}");
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn pngs() -> Vec<(String, Vec<u8>)> {
    type Make = fn(u32, u32) -> DynamicImage;
    let kinds: [(&str, Make); 8] = [
        ("grey", DynamicImage::new_luma8),
        ("grey and alpha", DynamicImage::new_luma_a8),
        ("colour", DynamicImage::new_rgb8),
        ("colour and alpha", DynamicImage::new_rgba8),
        ("deep grey", DynamicImage::new_luma16),
        ("deep grey and alpha", DynamicImage::new_luma_a16),
        ("deep colour", DynamicImage::new_rgb16),
        ("deep colour and alpha", DynamicImage::new_rgba16),
    ];
    let sizes = |make: Make| PIXELS.map(|(width, height)| (width, height, make(width, height)));
    let files = kinds.into_iter().flat_map(|(name, make)| sizes(make).map(|picture| (name, picture)));
    files.map(|(name, (w, h, picture))| (format!("{name} PNG {w}x{h}"), encoded(&picture, ImageFormat::Png))).collect()
}

/// A fixture, with other sides in its frame header: the decoder fills in what is missing.
fn jpeg(name: &str, width: u16, height: u16) -> Vec<u8> {
    let mut file = fixture(name);
    let frame = file.windows(2).position(|pair| matches!(pair, [0xFF, 0xC0 | 0xC2])).unwrap();
    file[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    file[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    file
}

/// Gives the first component more samples than the others have.
fn with_sampling(mut file: Vec<u8>, sampling: u8) -> Vec<u8> {
    let frame = file.windows(2).position(|pair| matches!(pair, [0xFF, 0xC0 | 0xC2])).unwrap();
    let components = usize::from(file[frame + 9]);
    (0..components).for_each(|at| file[frame + 11 + 3 * at] = if at == 0 { sampling } else { 0x11 });
    file
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/memory").join(name)).unwrap()
}

/// One test: what others allocate meanwhile would count.
#[test]
fn decoding_takes_no_more_than_the_header_says_and_not_far_less() {
    for (name, file) in pngs() {
        assert_bounds(&name, &file, 2.5);
    }
    for name in ["baseline.jpg", "progressive.jpg", "progressive_cmyk.jpg", "progressive_grey.jpg"] {
        for (width, height) in [(4000, 3000), (65_500, 180), (180, 65_500)] {
            assert_bounds(&format!("{name} {width}x{height}"), &jpeg(name, width, height), 2.5);
        }
        let (flat, whole) = (jpeg(name, 65_500, 8), jpeg(name, 4000, 3000));
        for sampling in [0x21, 0x12, 0x22, 0x41, 0x14, 0x42, 0x24, 0x44] {
            for (what, file) in [("flat ", &flat), ("", &whole)] {
                let file = with_sampling(file.clone(), sampling);
                let (said, took) = cost(&file);
                assert!(took <= said, "{what}{name} of sampling {sampling:x} took {took} of {said}");
            }
        }
    }
    for name in ["lossy.webp", "lossy_alpha.webp", "lossless.webp", "lossless_alpha.webp", "animation.webp"] {
        assert_bounds(name, &fixture(name), 4.0);
    }
    assert_bounds("GIF", &encoded(&DynamicImage::new_rgba8(4000, 3000), ImageFormat::Gif), 2.5);
    assert_bounds("GIF with a smaller frame", &moved(encoded(&DynamicImage::new_rgba8(4000, 3000), ImageFormat::Gif)), 2.5);
    assert_bounds("WebP of nothing but trees", &trees(4000), 2.5);
}

/// The same GIF, its frame one pixel narrower than its screen, so that it is decoded beside it.
fn moved(mut file: Vec<u8>) -> Vec<u8> {
    let width = u16::from_le_bytes([file[6], file[7]]) + 1;
    file[6..8].copy_from_slice(&width.to_le_bytes());
    file
}

/// A lossless WebP of 16 pixels that has as many groups of five trees as it says in its one block, as far as they go;
/// each tree with the shortest description that makes the largest table.
fn trees(groups: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0x2F, 8);
    bits.put(3, 14);
    bits.put(3, 14);
    // No alpha, version 0; no transform, no colour cache; a picture of groups, in blocks of 4 by 4 pixels.
    bits.put(0, 1 + 3 + 1 + 1);
    bits.put(1, 1);
    bits.put(0, 3);
    // That picture: no colour cache; green and red are 255, the rest is 0, so that there are 65536 groups.
    bits.put(0, 1);
    for symbol in [255, 255, 0, 0, 0] {
        // One symbol of eight bits.
        bits.put(1, 1);
        bits.put(0, 1);
        bits.put(1, 1);
        bits.put(symbol, 8);
    }
    (0..5 * groups).for_each(|_| tree(&mut bits));
    let data = bits.finish();
    let mut file = b"RIFF\0\0\0\0WEBPVP8L".to_vec();
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(&data);
    let length = (file.len() - 8) as u32;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    file
}

/// Codes of 1, 2, … 9, 10 and 10 bits for the first eleven symbols.
fn tree(bits: &mut Bits) {
    // How long the codes of lengths are: six lengths have codes of three bits, four of four.
    let code_bits = |length: u32| if length <= 6 { 3 } else { 4 };
    bits.put(0, 1);
    bits.put(14 - 4, 4);
    for length in [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10] {
        bits.put(if (1..=10).contains(&length) { code_bits(length) } else { 0 }, 3);
    }
    // Eleven lengths are told, a number of four bits.
    bits.put(1, 1);
    bits.put(1, 3);
    bits.put(11 - 2, 4);
    for length in (1..=10).chain([10]) {
        // Canonical: 000 to 101, then 1100 to 1111; the first bit first.
        let code = if length <= 6 { length - 1 } else { 0b1100 + length - 7 };
        (0..code_bits(length)).rev().for_each(|at| bits.put(code >> at & 1, 1));
    }
}

/// Bits, the lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        self.held |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.put(0, 7);
        self.bytes
    }
}
