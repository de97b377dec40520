//! What the streams ask: every way to choose tokens whose state a replay must find again.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tessera_proto::v1::{self, generate_request::Input};

use super::stream::{Answer, Lives, ask};
use crate::{Up, fixtures};

/// A request, and what an undisturbed cluster answers to it.
#[derive(Clone, Debug)]
pub struct Question {
    /// What it is about.
    pub name: String,
    /// The request.
    pub request: v1::GenerateRequest,
    /// The answer of a cluster of one rank to which nothing happened.
    pub answer: Answer,
}

/// Eight kinds of requests, `variants` of each, of about `tokens` tokens; answered by an undisturbed cluster.
///
/// # Errors
/// When the fixtures cannot be read, or the cluster does not answer.
pub async fn questions(variants: u64, tokens: u32) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for variant in 0..variants {
        for (name, request) in requests(variant, tokens)? {
            questions.push(Question { name: format!("{name} {variant}"), request, answer: Answer::default() });
        }
    }
    let up = Up::new(fixtures().join("shapes")).with("--dtype", "bf16").with("--kv-memory", "64MiB");
    let cluster = up.start().await?;
    let lives = Lives::default();
    for question in &mut questions {
        let asked = ask(&cluster.grpc, &question.request, &lives).await;
        question.answer = asked.with_context(|| format!("the undisturbed answer to {}", question.name))?;
    }
    Ok(questions)
}

fn requests(variant: u64, tokens: u32) -> Result<Vec<(&'static str, v1::GenerateRequest)>> {
    let base = v1::Sampling { ignore_eos: Some(true), max_new_tokens: Some(tokens), seed: Some(variant), ..Default::default() };
    let greedy = v1::Sampling { temperature: Some(0.0), ..base.clone() };
    let sampled = v1::Sampling { temperature: Some(0.9), top_p: Some(0.95), seed: Some(100 + variant), ..base.clone() };
    let penalized = v1::Sampling {
        seed: Some(200 + variant),
        repetition_penalty: Some(1.2),
        presence_penalty: Some(0.3),
        frequency_penalty: Some(0.1),
        ..sampled.clone()
    };
    let described = v1::Sampling { logprobs: Some(3), top_k: Some(40), seed: Some(300 + variant), ..sampled.clone() };
    let twice = v1::Sampling { n: Some(2), max_new_tokens: Some(tokens / 2), min_p: Some(0.02), ..sampled.clone() };
    let biased = v1::Sampling { logit_bias: [(1326, 2.0), (1331, -1.0)].into(), seed: Some(400 + variant), ..penalized.clone() };
    let cases = golden()?;
    let case = |name: &str| cases.get(name).cloned().with_context(|| format!("no case {name}"));
    let one = ["00-describe", "01-describe", "02-describe", "03-describe"][variant as usize % 4];
    let (picture, pictures) = (case(one)?, case("16-both")?);
    let long: Vec<u32> = (0..500).map(|at| 1000 + (at * 7 + variant as u32 * 13) % 530).collect();
    let text = |text: &str| Input::Text(format!("{text} {variant}"));
    Ok(vec![
        ("greedy", request(text("What do you see?"), greedy.clone())),
        ("a sampled one", request(text("List all the shapes."), sampled.clone())),
        ("one with penalties", request(text("Count the shapes."), penalized)),
        ("a picture", request(picture.clone(), greedy)),
        ("one with log-probabilities", request(text("How many circles are there?"), described)),
        ("two sequences", request(text("Which picture has more shapes?"), twice)),
        ("a long prompt", request(Input::Tokens(v1::TokenInput { ids: long, images: Vec::new() }), sampled)),
        ("two pictures", request(pictures, biased)),
    ])
}

fn request(input: Input, sampling: v1::Sampling) -> v1::GenerateRequest {
    v1::GenerateRequest { input: Some(input), sampling: Some(sampling), return_token_ids: true, ..Default::default() }
}

/// The learned model's held-out cases, by name.
fn golden() -> Result<BTreeMap<String, Input>> {
    cases()?.iter().map(|case| Ok((text(case, "name")?, conversation(case)?))).collect()
}

/// Asks what is in the picture of the first variant, and for as many tokens as there are to say so.
///
/// # Errors
/// When the fixture cannot be read.
pub fn picture() -> Result<v1::GenerateRequest> {
    let tokens = reference_of_the_first_picture()?.len() as u32;
    let sampling = v1::Sampling { temperature: Some(0.0), max_new_tokens: Some(tokens), ..Default::default() };
    let input = golden()?.remove("00-describe").context("no such case")?;
    Ok(request(input, sampling))
}

/// What the reference implementation answers to the picture of the first variant, its end token left out.
///
/// # Errors
/// When the fixture cannot be read.
pub fn reference_of_the_first_picture() -> Result<Vec<u32>> {
    let cases = cases()?;
    let case = cases.iter().find(|case| case["name"] == "00-describe").context("no such case")?;
    let ids = case["greedy_ids"].as_array().context("no ids")?;
    let ids: Vec<u32> = ids.iter().filter_map(Value::as_u64).map(|id| id as u32).filter(|&id| id != 2).collect();
    ensure!(!ids.is_empty(), "no ids");
    Ok(ids)
}

fn cases() -> Result<Vec<Value>> {
    let file = fixtures().join("shapes/golden.json");
    Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
}

fn text(value: &Value, key: &str) -> Result<String> {
    Ok(value[key].as_str().with_context(|| format!("no {key}"))?.to_owned())
}

fn conversation(case: &Value) -> Result<Input> {
    let message = |message: &Value| -> Result<v1::Message> {
        let parts = message["content"].as_array().map(|parts| parts.iter().map(part).collect());
        let parts = match parts {
            Some(parts) => parts,
            None => Ok(vec![said(text(message, "content")?)]),
        };
        Ok(v1::Message { role: text(message, "role")?, parts: parts? })
    };
    let messages = case["messages"].as_array().context("no messages")?;
    Ok(Input::Messages(v1::Messages { messages: messages.iter().map(message).collect::<Result<_>>()? }))
}

fn part(part: &Value) -> Result<v1::Part> {
    if part["type"] == "text" {
        return Ok(said(text(part, "text")?));
    }
    let data = fs::read(fixtures().join("shapes").join(text(part, "file")?))?;
    let image = v1::Image { source: Some(v1::image::Source::Data(data.into())), mime: "image/png".into() };
    Ok(v1::Part { part: Some(v1::part::Part::Image(image)) })
}

fn said(text: String) -> v1::Part {
    v1::Part { part: Some(v1::part::Part::Text(text)) }
}
