//! The same request gives the same tokens and the same log-probabilities, to the bit: alone, in a batch, under
//! pre-emption, at every degree.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tessera_proto::v1::{self, generate_response::Event};
use tessera_tests::{Cluster, Up, fixtures, golden_cases};

/// Tokens with the bits of their log-probabilities and of the alternatives'.
type Trace = Vec<(u32, u32, Vec<(u32, u32)>)>;

async fn trace(cluster: &Cluster, prompt: &[u32], temperature: f32, seed: u64) -> Result<Trace> {
    let request = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Tokens(v1::TokenInput { ids: prompt.to_vec(), images: vec![] })),
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
    let mut trace = Vec::new();
    while let Some(response) = stream.message().await? {
        if let Event::Delta(delta) = response.event.context("an empty event")? {
            for entry in delta.logprobs {
                let top = entry.top.iter().map(|top| (top.token_id, top.logprob.to_bits())).collect();
                trace.push((entry.token_id, entry.logprob.to_bits(), top));
            }
        }
    }
    Ok(trace)
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
