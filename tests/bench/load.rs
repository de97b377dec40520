//! A load of token prompts, and the rates it is served at.

use anyhow::{Context, Result};
use futures::future::try_join_all;
use rand::Rng;
use tessera_proto::v1;
use tessera_tests::Cluster;

/// Tokens a second.
pub(crate) struct Rates {
    /// Prompt tokens of one request, from leaving the queue to the first token.
    pub(crate) prefill: f64,
    /// Generated tokens of one stream.
    pub(crate) decode: f64,
    /// Generated tokens of all streams together, while all of them run.
    pub(crate) together: f64,
}

/// Runs one request alone, then `streams` at once.
pub(crate) async fn measure(cluster: &Cluster, prompt: usize, output: u32, streams: usize) -> Result<Rates> {
    let alone = timings(cluster, prompt, output).await?;
    let all = try_join_all((0..streams).map(|_| timings(cluster, 16, output))).await?;
    let rate = |tokens: f64, us: u64| tokens / (us as f64 / 1e6);
    Ok(Rates {
        prefill: rate(prompt as f64, alone.prefill_us),
        decode: rate(f64::from(output - 1), alone.decode_us),
        together: all.iter().map(|timings| rate(f64::from(output - 1), timings.decode_us)).sum(),
    })
}

async fn timings(cluster: &Cluster, prompt: usize, output: u32) -> Result<v1::Timings> {
    // Never the same, so that nothing of it is cached.
    let ids = (0..prompt).map(|_| rand::rng().random_range(1000..30_000)).collect();
    let request = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Tokens(v1::TokenInput { ids, images: vec![] })),
        sampling: Some(v1::Sampling {
            temperature: Some(0.0),
            max_new_tokens: Some(output),
            ignore_eos: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = cluster.client().await?.generate_once(request).await?.into_inner();
    answer.usage.and_then(|usage| usage.timings).context("no timings")
}
