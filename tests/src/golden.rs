//! The golden cases: what the reference programs said of the tiny random checkpoint.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::fixtures;

/// One prompt with what must come of it.
#[derive(Clone, Debug)]
pub struct GoldenCase {
    /// File name without its ending.
    pub name: String,
    /// The prompt as (role, ordered parts).
    pub messages: Vec<(String, Vec<GoldenPart>)>,
    /// Prompt ids as mistral-common lays them out.
    pub ids: Vec<u32>,
    /// Greedy tokens as transformers chooses them in f32.
    pub greedy: Vec<u32>,
}

/// A part of a golden prompt.
#[derive(Clone, Debug)]
pub enum GoldenPart {
    /// Text.
    Text(String),
    /// An encoded picture.
    Image(Vec<u8>),
}

/// All golden cases of `tests/fixtures/tiny-random`.
pub fn golden_cases() -> Result<Vec<GoldenCase>> {
    let folder = fixtures().join("tiny-random");
    let file = folder.join("golden/messages.json");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let cases: Value = serde_json::from_str(&text)?;
    let cases = cases.as_object().context("messages.json is not an object")?;
    cases.iter().map(|(name, messages)| read_case(name, messages).with_context(|| format!("golden case {name}"))).collect()
}

fn read_case(name: &str, messages: &Value) -> Result<GoldenCase> {
    let golden = fixtures().join("tiny-random/golden");
    let facts: Value = serde_json::from_str(&fs::read_to_string(golden.join(format!("{name}.json")))?)?;
    let ids = |key: &str| -> Result<Vec<u32>> {
        let list = facts[key].as_array().with_context(|| format!("no {key}"))?;
        list.iter().map(|id| Ok(id.as_u64().context("not an id")? as u32)).collect()
    };
    let part = |part: &Value| -> Result<GoldenPart> {
        if let Some(text) = part["text"].as_str() {
            return Ok(GoldenPart::Text(text.to_owned()));
        }
        let image = part["image"].as_str().context("a part is neither text nor image")?;
        Ok(GoldenPart::Image(fs::read(golden.join("images").join(image))?))
    };
    let message = |message: &Value| -> Result<(String, Vec<GoldenPart>)> {
        let role = message["role"].as_str().context("no role")?;
        let parts = message["parts"].as_array().context("no parts")?;
        Ok((role.to_owned(), parts.iter().map(part).collect::<Result<_>>()?))
    };
    let messages = messages.as_array().context("not a list of messages")?.iter().map(message).collect::<Result<_>>()?;
    Ok(GoldenCase { name: name.to_owned(), messages, ids: ids("ids")?, greedy: ids("greedy")? })
}
