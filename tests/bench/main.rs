//! Tessera beside this machine's own limits, measured in turn in one run: limit, ours, limit again.
//!
//! Only ratios carry over between machines; every figure is the median of several runs.

#![allow(clippy::print_stdout, reason = "its report goes to standard output")]

mod load;
mod process;
mod router_cost;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use image::{ImageFormat, RgbImage};
use tessera_device::cpu::bench::{fma_peak, gemv_bandwidth};
use tessera_prompt::ImageLimits;
use tessera_tests::Up;
use tessera_types::{Grid, ModelSpec};

use self::{
    load::{Rates, measure},
    process::Busy,
};

/// Runs of each measurement.
const RUNS: usize = 3;
/// Bytes the bare loop reads: far beyond any cache.
const GEMV_BYTES: usize = 1 << 30;

#[tokio::main]
async fn main() -> Result<()> {
    println!("| what | ours | beside | ratio | goal |");
    println!("| --- | --- | --- | --- | --- |");
    decode_and_prefill("tp 1, 2 threads", 1, 2).await?;
    decode_and_prefill("tp 2, 1 thread each", 2, 1).await?;
    beside_a_foreign_process().await?;
    image_preparation()?;
    router_cost::report().await
}

fn row(what: &str, ours: String, beside: String, ratio: f64, goal: &str) {
    println!("| {what} | {ours} | {beside} | {ratio:.2} | {goal} |");
}

/// Bytes of weights that one decode step reads in bf16: all but the embedding, of which it reads a row.
fn step_bytes(spec: &ModelSpec) -> f64 {
    let table = spec.decoder.vocab_size * spec.decoder.dim;
    2.0 * (spec.decoder_parameters() - table) as f64
}

/// Floating-point operations of one prefilled token; logits are made for the last token alone.
fn prefill_flops(spec: &ModelSpec) -> f64 {
    let tables = 2 * spec.decoder.vocab_size * spec.decoder.dim;
    2.0 * (spec.decoder_parameters() - tables) as f64
}

fn up(tp: usize, threads: usize) -> Up {
    Up::new("bench-1b")
        .with("--load-format", "dummy")
        .with("--dtype", "bf16")
        .with("--kv-memory", "512MiB")
        .with("--max-context", 2048)
        .with("--tp", tp)
        .with("--threads", threads)
}

async fn decode_and_prefill(name: &str, tp: usize, threads: usize) -> Result<()> {
    let spec = ModelSpec::bench_1b();
    let cluster = up(tp, threads).start().await?;
    let mut bandwidth = vec![gemv_bandwidth(2, GEMV_BYTES)?];
    let mut peak = vec![fma_peak(2)];
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(measure(&cluster, 256, 48, 8).await?);
        bandwidth.push(gemv_bandwidth(2, GEMV_BYTES)?);
        peak.push(fma_peak(2));
    }
    let of = |value: fn(&Rates) -> f64| median(runs.iter().map(value).collect());
    let (limit, peak) = (median(bandwidth), median(peak));
    let ours = of(|run| run.decode) * step_bytes(&spec) / 1e9;
    row(
        &format!("decode, {name}"),
        format!("{:.1} tok/s, {ours:.1} GB/s", of(|run| run.decode)),
        format!("GEMV loop {limit:.1} GB/s"),
        ours / limit,
        "0.7",
    );
    let flops = of(|run| run.prefill) * prefill_flops(&spec);
    row(
        &format!("prefill of 256, {name}"),
        format!("{:.0} tok/s, {:.0} GFLOP/s", of(|run| run.prefill), flops / 1e9),
        format!("FMA peak {:.0} GFLOP/s", peak / 1e9),
        flops / peak,
        "0.5",
    );
    let (one, many) = (of(|run| run.decode), of(|run| run.together));
    row(&format!("8 streams, {name}"), format!("{many:.1} tok/s"), format!("one stream {one:.1} tok/s"), many / one, "5");
    Ok(())
}

/// Two ranks of a thread each against one rank of one thread, while another process keeps a core busy.
async fn beside_a_foreign_process() -> Result<()> {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        for (tp, rates) in [(1, &mut one), (2, &mut two)] {
            let cluster = up(tp, 1).start().await?;
            let _busy = Busy::start()?;
            rates.push(measure(&cluster, 32, 32, 1).await?.decode);
        }
    }
    let (one, two) = (median(one), median(two));
    row("decode of two ranks, one core taken", format!("{two:.1} tok/s"), format!("one rank {one:.1} tok/s"), two / one, "0.8");
    Ok(())
}

/// Decoding and preprocessing of one JPEG of 1024 by 1024 on one thread, against decoding alone.
fn image_preparation() -> Result<()> {
    let picture = RgbImage::from_fn(1024, 1024, |x, y| image::Rgb([(x / 4) as u8, (y / 4) as u8, ((x * y) >> 12) as u8]));
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Jpeg)?;
    let file = file.into_inner();
    let decode = time(|| Ok(image::load_from_memory(&file).map(drop)?))?;
    let spec = ModelSpec::pixtral_12b().vision.context("Pixtral sees")?;
    let prepare = time(|| {
        let image = tessera_prompt::prepare(&file, &spec, &ImageLimits::default())?;
        anyhow::ensure!(image.grid == Grid { rows: 64, cols: 64 });
        Ok(())
    })?;
    row(
        "one 1024² JPEG, ready for the encoder",
        format!("{prepare:.1} ms"),
        format!("decoding alone {decode:.1} ms"),
        prepare / decode,
        "",
    );
    Ok(())
}

/// Median milliseconds of eleven calls.
fn time(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..11 {
        let start = Instant::now();
        call()?;
        times.push(milliseconds(start.elapsed()));
    }
    Ok(median(times))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
