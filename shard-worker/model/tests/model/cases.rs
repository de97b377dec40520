//! The golden cases: prompts, images, and what the reference programs compute of them.

use std::path::PathBuf;

use bytes::Bytes;
use tessera_types::{Grid, ImageEncode, ImageKey, PlacedImage, TokenId, special};

use crate::npz;

pub(crate) const NAMES: [&str; 8] =
    ["text_short", "text_multi", "image1", "image1_tall", "image3", "image_turns", "text_long", "image_long"];

const PATCH: usize = 16;

/// One case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) ids: Vec<TokenId>,
    pub(crate) placed: Vec<PlacedImage>,
    pub(crate) images: Vec<ImageEncode>,
    pub(crate) greedy: Vec<TokenId>,
    pub(crate) prefill_logits: Vec<f32>,
    /// Of each greedy step, one behind the other.
    pub(crate) step_logits: Vec<f32>,
    pub(crate) vision: Vec<f32>,
    pub(crate) projected: Vec<f32>,
}

/// A folder of the tiny random checkpoint's fixtures: `hf`, `mistral` or `golden`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-random")).join(name)
}

pub(crate) fn all() -> Vec<Case> {
    NAMES.iter().enumerate().map(|(number, name)| load(number, name)).collect()
}

pub(crate) fn load(number: usize, name: &'static str) -> Case {
    let arrays = npz::read(&fixture("golden").join(format!("{name}.npz")));
    let floats = |key: &str| arrays.get(key).map(npz::Array::floats).unwrap_or_default();
    let tokens = |key: &str| arrays[key].ids().into_iter().map(TokenId).collect::<Vec<_>>();
    let pixels = (0..).map_while(|k| arrays.get(&format!("pixels_{k}")));
    let images: Vec<ImageEncode> = pixels
        .enumerate()
        .map(|(k, array)| {
            let mut key = [0; 32];
            (key[0], key[1]) = (number as u8, k as u8);
            let grid = Grid { rows: (array.shape[1] / PATCH) as u32, cols: (array.shape[2] / PATCH) as u32 };
            ImageEncode { key: ImageKey(key), grid, pixels: Bytes::copy_from_slice(array.bytes()) }
        })
        .collect();
    let ids = tokens("ids");
    Case {
        name,
        placed: place(&ids, &images),
        ids,
        images,
        greedy: tokens("greedy"),
        prefill_logits: floats("prefill_logits"),
        step_logits: floats("step_logits"),
        vision: floats("vision"),
        projected: floats("projected"),
    }
}

/// Each image begins at the first `[IMG]` behind the one before it.
fn place(ids: &[TokenId], images: &[ImageEncode]) -> Vec<PlacedImage> {
    let mut end = 0;
    let mut placed = Vec::new();
    for image in images {
        let at = end + ids[end..].iter().position(|&id| id == special::IMAGE).expect("a place for the image");
        placed.push(PlacedImage { key: image.key, at: at as u32, grid: image.grid });
        end = at + image.grid.tokens();
        assert_eq!(ids[end - 1], special::IMAGE_END);
    }
    placed
}
