//! Ids, layouts, grids and pixels equal mistral-common's, which `reference.py` asked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and say why")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde::Deserialize;
use tessera_prompt::{ImageLimits, Message, Part, Role, Tokenizer, grid_of, lay_out, prepare, probe};
use tessera_types::{ModelSpec, TokenId, VisionSpec};

#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    small: Vec<Vec<u32>>,
    real: Vec<Vec<u32>>,
    talks: Vec<Vec<(String, Vec<Said>)>>,
    talk_ids: Vec<Vec<u32>>,
    sizes: Vec<(u32, u32)>,
    grids: Vec<(u32, u32)>,
    pictures: Vec<Picture>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Text(String),
    Image(u32, u32),
}

#[derive(Deserialize)]
struct Picture {
    mode: String,
    file: String,
    shape: Vec<u32>,
    at: Vec<usize>,
    values: Vec<f32>,
}

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn reference() -> Reference {
    serde_json::from_slice(&fs::read(here().join("tests/data/reference.json")).unwrap()).unwrap()
}

fn small() -> Tokenizer {
    Tokenizer::from_folder(&here().join("../../tests/fixtures/tiny-random/mistral")).unwrap()
}

fn vision(image_size: usize) -> VisionSpec {
    VisionSpec { image_size, ..ModelSpec::pixtral_12b().vision.unwrap() }
}

fn same_ids(tokenizer: &Tokenizer, texts: &[String], expected: &[Vec<u32>]) {
    for (text, expected) in texts.iter().zip(expected) {
        let ids: Vec<u32> = tokenizer.encode(text).into_iter().map(|id| id.0).collect();
        assert_eq!(&ids, expected, "{text:?}");
    }
}

#[test]
fn ids_equal_the_reference_on_a_small_vocabulary() {
    let Reference { texts, small: expected, .. } = reference();
    same_ids(&small(), &texts, &expected);
}

#[test]
fn ids_equal_the_reference_on_the_real_vocabulary() {
    let Some(file) = env::var_os("TESSERA_TEKKEN") else {
        println!("skipped: TESSERA_TEKKEN does not name the real tekken_240911.json; run tests/run.sh");
        return;
    };
    let folder = env::temp_dir().join(format!("tessera-tekken-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(Path::new(&file), folder.join("tekken.json")).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder);
    fs::remove_dir_all(&folder).unwrap();
    let Reference { texts, real, .. } = reference();
    same_ids(&tokenizer.unwrap(), &texts, &real);
}

#[test]
fn conversations_are_laid_out_as_the_reference_does() {
    let Reference { talks, talk_ids, .. } = reference();
    let (tokenizer, spec) = (small(), vision(256));
    let part = |said: &Said| match said {
        Said::Text(text) => Part::Text(text.clone()),
        Said::Image(width, height) => Part::Image(grid_of(*width, *height, &spec)),
    };
    for (talk, expected) in talks.iter().zip(&talk_ids) {
        let message = |(role, parts): &(String, Vec<Said>)| Message {
            role: match role.as_str() {
                "system" => Role::System,
                "user" => Role::User,
                _ => Role::Assistant,
            },
            parts: parts.iter().map(part).collect(),
        };
        let layout = lay_out(&talk.iter().map(message).collect::<Vec<_>>(), &tokenizer).unwrap();
        let ids: Vec<u32> = layout.tokens.iter().map(|id| id.0).collect();
        assert_eq!(&ids, expected);
        for (_, at) in layout.images {
            assert_eq!(ids[at], 10, "an image begins with [IMG]");
        }
    }
}

#[test]
fn grids_equal_the_reference_for_thousands_of_sizes() {
    let Reference { sizes, grids, .. } = reference();
    for ((width, height), (cols, rows)) in sizes.into_iter().zip(grids) {
        let grid = grid_of(width, height, &vision(1024));
        assert_eq!((grid.cols, grid.rows), (cols, rows), "{width} by {height}");
    }
}

#[test]
fn pixels_equal_the_reference_within_a_thousandth_of_a_step() {
    // One step of 0..=255 in normalised units, of the channel with the largest deviation.
    let step = 1.0 / 255.0 / 0.275_777_1;
    for picture in reference().pictures {
        let file = STANDARD.decode(&picture.file).unwrap();
        let image = prepare(&file, &vision(256), &ImageLimits::default()).unwrap();
        assert_eq!([3, image.grid.rows * 16, image.grid.cols * 16].as_slice(), picture.shape, "{}", picture.mode);
        let pixels: Vec<f32> = image.pixels.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for (at, expected) in picture.at.into_iter().zip(picture.values) {
            let difference = (pixels[at] - expected).abs();
            assert!(difference < 1e-3 * step, "{} at {at}: {} for {expected}", picture.mode, pixels[at]);
        }
    }
}

#[test]
fn a_long_run_of_one_letter_is_not_slow() {
    let text = "a".repeat(1 << 20);
    let tokenizer = small();
    let tokens = tokenizer.encode(&text);
    let decoded: usize = tokens.into_iter().map(|id| tokenizer.token_bytes(id).len()).sum();
    assert_eq!(decoded, text.len());
}

#[test]
fn a_folder_without_a_tokenizer_is_named() {
    let error = Tokenizer::from_folder(Path::new("/nonexistent")).err().unwrap();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(text in any::<String>()) {
        let tokenizer = small();
        let bytes: Vec<u8> = tokenizer.encode(&text).into_iter().flat_map(|id| tokenizer.token_bytes(id).to_vec()).collect();
        prop_assert_eq!(bytes, text.into_bytes());
    }

    #[test]
    fn random_bytes_are_no_image_and_no_crash(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 8..200_usize) {
        let limits = ImageLimits::default();
        let _ = probe(&bytes, &limits);
        // A true beginning, so that decoders get going.
        let mut file = STANDARD.decode(&reference().pictures[0].file).unwrap();
        file.truncate(cut);
        file.extend(bytes);
        prop_assert!(prepare(&file, &vision(256), &limits).is_err());
    }

    #[test]
    fn grids_keep_within_the_limit(width in 1..20_000_u32, height in 1..20_000_u32) {
        let grid = grid_of(width, height, &vision(1024));
        prop_assert!((1..=64).contains(&grid.rows) && (1..=64).contains(&grid.cols));
    }
}

/// Ids outside the vocabulary and control tokens stand for no text.
#[test]
fn control_tokens_stand_for_nothing() {
    for id in [0, 1, 3, 10, 999, 4096, u32::MAX] {
        assert!(small().token_bytes(TokenId(id)).is_empty(), "{id}");
    }
}
