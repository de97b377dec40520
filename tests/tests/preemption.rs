//! Sequences that push each other out of the cache and are computed again go on with the same bits.

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tessera_proto::v1::{self, generate_request::Input, generate_response::Event};
use tessera_tests::{Cluster, GoldenPart, Up, fixtures, golden_cases};

const REQUESTS: usize = 16;
const TOKENS: u32 = 160;

/// Tokens with the bits of their log-probabilities.
type Trace = Vec<(u32, u32)>;

/// Sixteen prompts of which no two begin alike: long texts, and pictures after every third of them.
fn prompts() -> Result<Vec<Input>> {
    let cases = golden_cases()?;
    let text = cases.iter().filter(|case| !case.ids.contains(&10)).max_by_key(|case| case.ids.len()).context("no text")?;
    let pictures: Vec<_> = cases.iter().filter(|case| case.ids.contains(&10)).collect();
    let prompt = |i: usize| {
        if i % 4 == 3 {
            return messages(&pictures[i / 4 % pictures.len()].messages, i);
        }
        let ids = [1, 1100 + i as u32].into_iter().chain(text.ids.iter().skip(1).cycle().copied().take(200)).collect();
        Input::Tokens(v1::TokenInput { ids, images: vec![] })
    };
    Ok((0..REQUESTS).map(prompt).collect())
}

fn messages(messages: &[(String, Vec<GoldenPart>)], number: usize) -> Input {
    let part = |part: &GoldenPart| match part {
        GoldenPart::Text(text) => v1::part::Part::Text(format!("{number} {text}")),
        GoldenPart::Image(data) => v1::part::Part::Image(v1::Image {
            source: Some(v1::image::Source::Data(data.clone().into())),
            mime: "image/png".into(),
        }),
    };
    let message = |(role, parts): &(String, Vec<GoldenPart>)| v1::Message {
        role: role.clone(),
        parts: parts.iter().map(|given| v1::Part { part: Some(part(given)) }).collect(),
    };
    Input::Messages(v1::Messages { messages: messages.iter().map(message).collect() })
}

async fn trace(cluster: &Cluster, input: Input, seed: u64) -> Result<Trace> {
    let sampling = v1::Sampling {
        temperature: Some((seed % 2) as f32),
        seed: Some(seed),
        max_new_tokens: Some(TOKENS),
        ignore_eos: Some(true),
        logprobs: Some(1),
        repetition_penalty: Some(1.1),
        ..Default::default()
    };
    let request = v1::GenerateRequest { input: Some(input), sampling: Some(sampling), ..Default::default() };
    let mut stream = cluster.client().await?.generate(request).await?.into_inner();
    let mut trace = Vec::new();
    while let Some(response) = stream.message().await? {
        if let Some(Event::Delta(delta)) = response.event {
            trace.extend(delta.logprobs.iter().map(|entry| (entry.token_id, entry.logprob.to_bits())));
        }
    }
    Ok(trace)
}

async fn preemptions(cluster: &Cluster) -> Result<f64> {
    let text = reqwest::get(format!("{}/metrics", cluster.http)).await?.error_for_status()?.text().await?;
    let counted =
        text.lines().filter_map(|line| line.strip_prefix("tessera_preemptions_total")?.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counted.sum())
}

async fn same_under_pre_emption(dtype: &str, room: &str) -> Result<()> {
    let up = || Up::new(fixtures().join("tiny-random/mistral")).with("--dtype", dtype);
    let (roomy, narrow) = (up().start().await?, up().with("--kv-memory", room).with("--step-tokens", 100).start().await?);
    let mut expected = Vec::new();
    for (seed, input) in (0..).zip(prompts()?) {
        expected.push(trace(&roomy, input, seed).await?);
    }
    assert!(expected.iter().all(|trace| trace.len() == TOKENS as usize), "all tokens");
    assert_eq!(preemptions(&roomy).await?, 0.0, "one after the other there is room");
    let at_once = (0..).zip(prompts()?).map(|(seed, input)| trace(&narrow, input, seed));
    let got = try_join_all(at_once).await?;
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "{dtype}: prompt {index}");
    }
    let preemptions = preemptions(&narrow).await?;
    assert!(preemptions > 0.0, "nobody was pushed out");
    Ok(())
}

// About 1,500 tokens of the tiny checkpoint: 4 layers, 4 heads of 32, keys and values.

#[tokio::test]
async fn in_f32_a_batch_that_pushes_its_own_out_ends_with_the_same_bits() -> Result<()> {
    same_under_pre_emption("f32", "6000KiB").await
}

#[tokio::test]
async fn in_bf16_a_batch_that_pushes_its_own_out_ends_with_the_same_bits() -> Result<()> {
    same_under_pre_emption("bf16", "3000KiB").await
}
