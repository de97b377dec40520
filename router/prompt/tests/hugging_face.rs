//! `tokenizer.json` gives the ids that the tekken file it was converted from gives.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::{fs, path::PathBuf};

use serde::Deserialize;
use tessera_prompt::{Tokenizer, TokenizerError};
use tessera_types::TokenId;

#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    small: Vec<Vec<u32>>,
}

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn converted() -> Tokenizer {
    Tokenizer::from_folder(&data().join("hugging_face")).unwrap()
}

#[test]
fn ids_equal_those_of_the_tekken_file() {
    let tokenizer = converted();
    let Reference { texts, small } = serde_json::from_slice(&fs::read(data().join("reference.json")).unwrap()).unwrap();
    for (text, expected) in texts.iter().zip(&small) {
        let ids: Vec<u32> = tokenizer.encode(text).into_iter().map(|id| id.0).collect();
        assert_eq!(&ids, expected, "{text:?}");
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(TokenId(id)).to_vec()).collect();
        assert_eq!(&bytes, text.as_bytes());
    }
}

#[test]
fn control_tokens_stand_for_nothing_and_their_names_are_text() {
    let tokenizer = converted();
    for id in [0, 1, 3, 10, 12, 999, 4096, u32::MAX] {
        assert!(tokenizer.token_bytes(TokenId(id)).is_empty(), "{id}");
    }
    let ids = tokenizer.encode("[INST] <s> [IMG]");
    assert!(ids.iter().all(|id| id.0 >= 1000), "{ids:?}");
}

#[test]
fn a_vocabulary_that_lacks_bytes_is_refused() {
    let folder = std::env::temp_dir().join(format!("tessera-words-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let words = r#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"▁the":0,"t":1},"merges":[]}}"#;
    fs::write(folder.join("tokenizer.json"), words).unwrap();
    let error = Tokenizer::from_folder(&folder).err().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(&error, TokenizerError::Format { problem, .. } if problem.contains("byte-level")), "{error}");
}
