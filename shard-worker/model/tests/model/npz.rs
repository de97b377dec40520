//! Reads numpy's `.npz`: a zip of `.npy` arrays, deflated.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// An array of 32-bit numbers.
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    pub(crate) fn floats(&self) -> Vec<f32> {
        self.words().map(f32::from_le_bytes).collect()
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.words().map(u32::from_le_bytes).collect()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn words(&self) -> impl Iterator<Item = [u8; 4]> {
        self.bytes.as_chunks::<4>().0.iter().copied()
    }
}

/// Arrays by name.
pub(crate) fn read(path: &Path) -> HashMap<String, Array> {
    let zip = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([zip[at], zip[at + 1]]));
    let u32_at = |at: usize| u32::from_le_bytes(zip[at..at + 4].try_into().unwrap()) as usize;
    let end = (0..zip.len() - 21).rev().find(|&at| zip[at..].starts_with(b"PK\x05\x06")).expect("an end of central directory");
    let (entries, mut at) = (u16_at(end + 10), u32_at(end + 16));
    let mut arrays = HashMap::new();
    for _ in 0..entries {
        let (method, size, local) = (u16_at(at + 10), u32_at(at + 20), u32_at(at + 42));
        let name = String::from_utf8_lossy(&zip[at + 46..at + 46 + u16_at(at + 28)]).into_owned();
        at += 46 + u16_at(at + 28) + u16_at(at + 30) + u16_at(at + 32);
        let data = local + 30 + u16_at(local + 26) + u16_at(local + 28);
        let mut npy = Vec::new();
        let mut packed = &zip[data..data + size];
        if method == 0 {
            packed.read_to_end(&mut npy).unwrap();
        } else {
            flate2::read::DeflateDecoder::new(packed).read_to_end(&mut npy).unwrap();
        }
        arrays.insert(name.trim_end_matches(".npy").to_owned(), parse(&npy));
    }
    arrays
}

fn parse(npy: &[u8]) -> Array {
    let header = usize::from(u16::from_le_bytes([npy[8], npy[9]]));
    let text = std::str::from_utf8(&npy[10..10 + header]).unwrap();
    assert!(text.contains("'<f4'") || text.contains("'<i4'"), "{text}");
    assert!(text.contains("'fortran_order': False"), "{text}");
    let (_, shape) = text.split_once("'shape': (").unwrap();
    let (shape, _) = shape.split_once(')').unwrap();
    let shape = shape.split(',').filter_map(|side| side.trim().parse().ok()).collect();
    Array { shape, bytes: npy[10 + header..].to_vec() }
}
