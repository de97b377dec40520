//! `tessera bench`: load on a running cluster, and what it did to it; or the limits that its figures stand beside.

mod roofline;

use std::{
    io::{Cursor, Write, stdout},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use image::{ImageFormat, RgbImage};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tessera_proto::v1;
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    cli::{BenchArgs, LoadArgs},
    client::{self, Client, Outcome, image, message, text},
};

/// Prints the limits, or runs the load and prints the report.
pub(crate) async fn run(args: BenchArgs) -> Result<()> {
    let BenchArgs { router, json, load: args, roofline } = args;
    if roofline.roofline {
        return roofline::print(&roofline, json);
    }
    let client = client::connect(&router.endpoint, router.ca.as_deref()).await?;
    let info =
        client.clone().get_model_info(v1::GetModelInfoRequest {}).await.context("the router does not say what it serves")?;
    let progress = progress_bar(&args);
    let start = Instant::now();
    let args = Arc::new(args);
    let vocabulary = info.into_inner().vocab_size;
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let next = Arc::new(AtomicU32::new(0));
    let mut streams = JoinSet::new();
    for _ in 0..args.concurrency.min(args.requests) {
        let (client, args, outcomes) = (client.clone(), args.clone(), outcomes.clone());
        let (next, progress) = (next.clone(), progress.clone());
        streams.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= args.requests {
                    return;
                }
                let outcome = one(client.clone(), &args, vocabulary, number).await;
                outcomes.lock().await.push(outcome);
                progress.inc(1);
            }
        });
    }
    while streams.join_next().await.is_some() {}
    progress.finish_and_clear();
    let outcomes = std::mem::take(&mut *outcomes.lock().await);
    report(&args, json, &outcomes, start.elapsed())
}

async fn one(mut client: Client, args: &LoadArgs, vocabulary: u32, number: u32) -> Result<Outcome> {
    let mut rng = StdRng::seed_from_u64(args.seed.wrapping_mul(1_000_003).wrapping_add(number.into()));
    client::run(&mut client, request(args, vocabulary, &mut rng)?, |_| {}).await
}

/// A prompt that no earlier one shares a prefix with: random ids, or pictures with random words.
fn request(args: &LoadArgs, vocabulary: u32, rng: &mut StdRng) -> Result<v1::GenerateRequest> {
    use v1::generate_request::Input;
    let input = if args.images == 0 {
        let first = tessera_types::special::COUNT.min(vocabulary.saturating_sub(1));
        let ids = (0..args.prompt_tokens.max(1)).map(|_| rng.random_range(first..vocabulary)).collect();
        Input::Tokens(v1::TokenInput { ids, images: Vec::new() })
    } else {
        let mut parts = (0..args.images).map(|_| picture(args.image_size, rng).map(image)).collect::<Result<Vec<_>>>()?;
        let words: Vec<_> = (0..args.prompt_tokens.max(1)).map(|_| ["a", "of", "the", "and"][rng.random_range(0..4)]).collect();
        parts.push(text(words.join(" ")));
        Input::Messages(v1::Messages { messages: vec![message("user", parts)] })
    };
    let sampling = v1::Sampling {
        temperature: Some(0.0),
        max_new_tokens: Some(args.output_tokens),
        ignore_eos: Some(true),
        ..Default::default()
    };
    Ok(v1::GenerateRequest { input: Some(input), sampling: Some(sampling), ..Default::default() })
}

fn picture((width, height): (u32, u32), rng: &mut StdRng) -> Result<Vec<u8>> {
    let tint: [u8; 3] = rng.random();
    let pixels = RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([tint[0].wrapping_add(x as u8), tint[1].wrapping_add(y as u8), tint[2] ^ ((x * y) >> 6) as u8])
    });
    let mut file = Cursor::new(Vec::new());
    pixels.write_to(&mut file, ImageFormat::Jpeg).context("cannot encode a picture")?;
    Ok(file.into_inner())
}

fn progress_bar(args: &LoadArgs) -> ProgressBar {
    let bar = ProgressBar::new(args.requests.into());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} requests  {elapsed} of about {duration}") {
        bar.set_style(style);
    }
    bar
}

fn report(args: &LoadArgs, json: bool, outcomes: &[Result<Outcome>], wall: Duration) -> Result<()> {
    let good: Vec<&Outcome> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    let errors: Vec<String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err().map(|e| format!("{e:#}"))).collect();
    let generated: u64 = good.iter().map(|o| u64::from(o.usage.generated_tokens)).sum();
    let prompt: u64 = good.iter().map(|o| u64::from(o.usage.prompt_tokens)).sum();
    let first = percentiles(good.iter().filter_map(|o| o.first_token).collect());
    let gaps = percentiles(good.iter().flat_map(|o| o.gaps.iter().copied()).collect());
    let total = percentiles(good.iter().map(|o| o.total).collect());
    let seconds = wall.as_secs_f64();
    let mut out = stdout().lock();
    if json {
        let document = json!({
            "requests": good.len(), "failed": errors.len(), "errors": errors.iter().take(5).collect::<Vec<_>>(),
            "concurrency": args.concurrency, "seconds": seconds,
            "prompt_tokens": prompt, "generated_tokens": generated,
            "generated_tokens_per_second": generated as f64 / seconds,
            "prompt_tokens_per_second": prompt as f64 / seconds,
            "time_to_first_token_ms": first.json(), "inter_token_ms": gaps.json(), "request_ms": total.json(),
        });
        writeln!(out, "{document:#}")?;
    } else {
        writeln!(out, "{} requests, {} failed, {seconds:.2} s at concurrency {}", good.len(), errors.len(), args.concurrency)?;
        writeln!(out, "generated   {generated:>8} tokens  {:>9.1} tokens/s", generated as f64 / seconds)?;
        writeln!(out, "prompt      {prompt:>8} tokens  {:>9.1} tokens/s", prompt as f64 / seconds)?;
        writeln!(out, "first token {first}")?;
        writeln!(out, "inter-token {gaps}")?;
        writeln!(out, "request     {total}")?;
        for error in errors.iter().take(5) {
            writeln!(out, "failed: {error}")?;
        }
    }
    anyhow::ensure!(errors.is_empty(), "{} of {} requests failed", errors.len(), outcomes.len());
    Ok(())
}

/// 50th, 90th and 99th percentile and maximum, in milliseconds.
struct Percentiles([f64; 4]);

fn percentiles(mut durations: Vec<Duration>) -> Percentiles {
    durations.sort_unstable();
    let at = |share: f64| {
        let index = (share * durations.len() as f64).ceil() as usize;
        durations.get(index.saturating_sub(1)).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    };
    Percentiles([at(0.5), at(0.9), at(0.99), at(1.0)])
}

impl Percentiles {
    fn json(&self) -> serde_json::Value {
        let [p50, p90, p99, max] = self.0;
        json!({ "p50": p50, "p90": p90, "p99": p99, "max": max })
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p90, p99, max] = self.0;
        write!(f, "p50 {p50:>8.2} ms  p90 {p90:>8.2}  p99 {p99:>8.2}  max {max:>8.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_observed_values() {
        let times = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentiles(times).0, [50.0, 90.0, 99.0, 100.0]);
        assert_eq!(percentiles(Vec::new()).0, [0.0; 4]);
    }
}
