//! The same request gives the same tokens and the same log-probabilities, to the bit: alone, in a batch, under
//! pre-emption, at every degree, computed or from the cache.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tessera_proto::v1::{self, generate_request::Input, generate_response::Event};
use tessera_tests::{Cluster, GoldenPart, Up, fixtures, golden_cases};

/// Tokens with the bits of their log-probabilities and of the alternatives'.
type Trace = Vec<(u32, u32, Vec<(u32, u32)>)>;

fn tokens(prompt: &[u32]) -> Input {
    Input::Tokens(v1::TokenInput { ids: prompt.to_vec(), images: vec![] })
}

async fn trace(cluster: &Cluster, prompt: &[u32], temperature: f32, seed: u64) -> Result<Trace> {
    Ok(ask(cluster, tokens(prompt), temperature, seed).await?.0)
}

/// The trace, and how many tokens of the prompt came from the cache.
async fn ask(cluster: &Cluster, input: Input, temperature: f32, seed: u64) -> Result<(Trace, u32)> {
    let request = v1::GenerateRequest {
        input: Some(input),
        sampling: Some(v1::Sampling {
            temperature: Some(temperature),
            seed: Some(seed),
            max_new_tokens: Some(24),
            ignore_eos: Some(true),
            logprobs: Some(3),
            repetition_penalty: Some(1.1),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut stream = cluster.client().await?.generate(request).await?.into_inner();
    let (mut trace, mut cached) = (Vec::new(), 0);
    while let Some(response) = stream.message().await? {
        match response.event.context("an empty event")? {
            Event::Delta(delta) => trace.extend(delta.logprobs.into_iter().map(|entry| {
                let top = entry.top.iter().map(|top| (top.token_id, top.logprob.to_bits())).collect();
                (entry.token_id, entry.logprob.to_bits(), top)
            })),
            Event::Usage(usage) => cached = usage.cached_prompt_tokens,
            Event::Accepted(_) | Event::Finished(_) | Event::Resumed(_) => {}
        }
    }
    Ok((trace, cached))
}

/// Text prompts of the golden cases, and cuts of them, so that lengths differ.
fn prompts() -> Result<Vec<Vec<u32>>> {
    let texts = golden_cases()?.into_iter().filter(|case| !case.ids.contains(&10)).map(|case| case.ids);
    Ok(texts.flat_map(|ids| [1, 2, 3, 5, 7].map(|part| ids[..ids.len().div_ceil(part)].to_vec())).collect())
}

async fn traces(cluster: &Cluster, at_once: bool) -> Result<Vec<Trace>> {
    let prompts = prompts()?;
    let runs = prompts.iter().enumerate().map(|(i, prompt)| trace(cluster, prompt, (i % 2) as f32, i as u64));
    if at_once {
        return try_join_all(runs).await;
    }
    let mut traces = Vec::new();
    for run in runs {
        traces.push(run.await?);
    }
    Ok(traces)
}

async fn all_ways_agree(dtype: &str) -> Result<()> {
    let up = || Up::new(fixtures().join("tiny-random/mistral")).with("--dtype", dtype);
    let alone = up().start().await?;
    let expected = traces(&alone, false).await?;
    assert!(expected.iter().all(|trace| trace.len() == 24), "24 tokens each");
    let ways = BTreeMap::from([
        ("in a batch", up()),
        ("in a batch with chunks of 37 tokens", up().with("--step-tokens", 37)),
        // Room for the longest sequence and little more: sequences wait for each other.
        ("in little room", up().with("--kv-memory", little(dtype)).with("--step-tokens", 100)),
        ("on two ranks", up().with("--tp", 2)),
        ("on four ranks", up().with("--tp", 4)),
        ("on two ranks, images by tensor", up().with("--tp", 2).with("--vision-parallel", "tensor")),
        (
            "on four ranks over TCP, images by image",
            up().with("--tp", 4).with("--vision-parallel", "image").with("--transport", "tcp"),
        ),
        ("on two threads", up().with("--threads", 2)),
    ]);
    for (way, up) in ways {
        let cluster = up.start().await?;
        let got = traces(&cluster, true).await?;
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_eq!(got, expected, "{dtype}: prompt {index} {way}");
        }
    }
    Ok(())
}

/// A cache of about 2,000 tokens of the tiny checkpoint: 4 layers, 4 heads of 32, keys and values.
fn little(dtype: &str) -> &'static str {
    if dtype == "f32" { "8000KiB" } else { "4000KiB" }
}

#[tokio::test]
async fn in_f32_log_probabilities_are_bit_equal_whatever_the_way() -> Result<()> {
    all_ways_agree("f32").await
}

#[tokio::test]
async fn in_bf16_log_probabilities_are_bit_equal_whatever_the_way() -> Result<()> {
    all_ways_agree("bf16").await
}

/// Pairs of prompts that begin alike: two texts, and two questions about one picture.
fn pairs() -> Result<[[Input; 2]; 2]> {
    let cases = golden_cases()?;
    let case = |name: &str| cases.iter().find(|case| case.name == name).with_context(|| format!("no case {name}"));
    let text = &case("text_long")?.ids;
    let other: Vec<u32> = text[..text.len() / 2].iter().chain(&text[..40]).copied().collect();
    let picture = &case("image1")?.messages;
    let asked = |more: &str| {
        let message = |(role, parts): &(String, Vec<GoldenPart>)| {
            let parts = parts.iter().cloned().chain([GoldenPart::Text(more.to_owned())]).map(part).collect();
            v1::Message { role: role.clone(), parts }
        };
        Input::Messages(v1::Messages { messages: picture.iter().map(message).collect() })
    };
    Ok([[tokens(text), tokens(&other)], [asked("Tell me all that you see in it."), asked("Is there more? Say yes or no.")]])
}

fn part(part: GoldenPart) -> v1::Part {
    let part = match part {
        GoldenPart::Text(text) => v1::part::Part::Text(text),
        GoldenPart::Image(data) => {
            v1::part::Part::Image(v1::Image { source: Some(v1::image::Source::Data(data.into())), mime: "image/png".into() })
        }
    };
    v1::Part { part: Some(part) }
}

#[tokio::test]
async fn what_comes_from_the_cache_is_bit_equal_to_what_is_computed() -> Result<()> {
    for (dtype, tp) in [("f32", 1), ("bf16", 2)] {
        let up = || Up::new(fixtures().join("tiny-random/mistral")).with("--dtype", dtype).with("--tp", tp);
        let warm = up().with("--step-tokens", 37).start().await?;
        for [first, second] in pairs()? {
            // Each on a cluster that has seen nothing before.
            let (one, none) = ask(&up().start().await?, first.clone(), 1.0, 5).await?;
            let (other, nothing) = ask(&up().start().await?, second.clone(), 0.0, 6).await?;
            assert_eq!((none, nothing), (0, 0));
            assert_eq!(ask(&warm, first.clone(), 1.0, 5).await?, (one.clone(), 0), "{dtype}: computed");
            let (again, cached) = ask(&warm, first, 1.0, 5).await?;
            assert_eq!(again, one, "{dtype}: asked again");
            let (shared, part) = ask(&warm, second, 0.0, 6).await?;
            assert_eq!(shared, other, "{dtype}: begun alike");
            assert!(0 < part && part <= cached, "{dtype}: {part} and {cached} tokens from the cache");
        }
    }
    Ok(())
}
