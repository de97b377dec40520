//! A tekken file that does not fit the model is refused with the reason.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::{fs, path::Path};

use serde_json::{Value, json};
use tessera_prompt::Tokenizer;

/// What reading the small vocabulary's file says after `change`; `name` keeps tests apart.
fn read_changed(name: &str, change: impl FnOnce(&mut Value)) -> Result<Tokenizer, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-random/mistral/tekken.json");
    let mut file: Value = serde_json::from_slice(&fs::read(source).unwrap()).unwrap();
    change(&mut file);
    let folder = std::env::temp_dir().join(format!("tessera-tekken-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tekken.json"), file.to_string()).unwrap();
    let read = Tokenizer::from_folder(&folder);
    fs::remove_dir_all(&folder).unwrap();
    read.map_err(|error| error.to_string())
}

#[test]
fn listed_control_tokens_must_stand_where_prompts_put_them() {
    let listing = |image: u32| {
        move |file: &mut Value| file["special_tokens"] = json!([{"rank": image, "token_str": "[IMG]", "is_control": true}])
    };
    assert!(read_changed("listed", listing(10)).is_ok());
    let error = read_changed("moved", listing(20)).err().unwrap();
    assert!(error.contains("tekken.json") && error.contains("[IMG]") && error.contains("20"), "{error}");
}

#[test]
fn a_vocabulary_larger_than_its_file_is_refused() {
    let error = read_changed("large", |file| file["config"]["default_vocab_size"] = json!(u32::MAX)).err().unwrap();
    assert!(error.contains("tekken.json") && error.contains("4294966295"), "{error}");
}

#[test]
fn a_rank_out_of_order_is_named() {
    let error = read_changed("order", |file| file["vocab"][300]["rank"] = json!(7)).err().unwrap();
    assert!(error.contains("vocab[300]"), "{error}");
}
