//! The whole way of a request on GPUs: stand-ins on the CPU, the real binary, real NCCL calls between ranks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::process::Command;

use anyhow::{Context, Result};
use tessera_tests::{
    Up, binary, fixtures,
    load::{Lives, ask, picture, reference_of_the_first_picture},
};

/// What the learned model makes of the first picture.
struct Described {
    tokens: Vec<u32>,
    weight_bytes: f64,
    /// Ranks whose small sums go through the GPUs' own memory.
    peers: f64,
}

/// At a degree, with other options.
async fn described(tp: u16, options: [(&str, &str); 1]) -> Result<Described> {
    describe(options.into_iter().fold(on_gpus(tp), |up, (option, value)| up.with(option, value))).await
}

fn on_gpus(tp: u16) -> Up {
    Up::new(fixtures().join("shapes")).on_gpus().with("--kv-memory", "16MiB").with("--tp", tp)
}

async fn describe(up: Up) -> Result<Described> {
    let cluster = up.start().await?;
    let answer = ask(&cluster.grpc, &picture()?, &Lives::default()).await?;
    let metrics = reqwest::get(format!("{}/metrics", cluster.http)).await?.text().await?;
    assert_eq!(cluster.stop().await?, Some(0));
    let of_all_ranks = |name| sum(&metrics, name);
    let (weight_bytes, peers) = (of_all_ranks("tessera_rank_weight_bytes")?, of_all_ranks("tessera_rank_has_peers")?);
    Ok(Described { tokens: answer.sequences[&0].tokens.clone(), weight_bytes, peers })
}

/// Of all ranks, which share a process.
fn sum(metrics: &str, name: &str) -> Result<f64> {
    let ranks = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    ranks.map(|line| Ok(line.rsplit(' ').next().context("a value")?.parse::<f64>()?)).sum()
}

#[tokio::test]
async fn one_gpu_describes_a_picture_as_the_reference_does() -> Result<()> {
    assert_eq!(described(1, [("--vision-parallel", "auto")]).await?.tokens, reference_of_the_first_picture()?);
    Ok(())
}

#[tokio::test]
async fn several_gpus_describe_a_picture_as_one_does() -> Result<()> {
    let expected = reference_of_the_first_picture()?;
    for (tp, way) in [(2, "auto"), (4, "auto"), (2, "tensor"), (4, "image")] {
        let described = described(tp, [("--vision-parallel", way)]).await?;
        assert_eq!(described.tokens, expected, "on {tp} GPUs, {way}");
        assert!(described.peers == f64::from(tp) || tessera_test_gpu::is_real(), "on {tp} GPUs {} are peers", described.peers);
    }
    Ok(())
}

#[tokio::test]
async fn gpus_that_do_not_reach_each_other_describe_a_picture_as_well() -> Result<()> {
    let expected = reference_of_the_first_picture()?;
    let apart =
        [on_gpus(2).seeing("FAKE_CUDA_PEERS", "0"), on_gpus(4).seeing("FAKE_CUDA_PEERS", "0"), on_gpus(2).flag("--no-peer-sums")];
    let first = if tessera_test_gpu::is_real() { 2 } else { 0 };
    for up in apart.into_iter().skip(first) {
        let described = describe(up).await?;
        assert_eq!((described.tokens, described.peers), (expected.clone(), 0.0));
    }
    Ok(())
}

/// A row-parallel weight has a scale for each rank's part of a row, so that degrees round otherwise; the model is sure enough of
/// its words for that not to matter.
#[tokio::test]
async fn the_learned_model_describes_a_picture_with_weights_in_fp8() -> Result<()> {
    let expected = reference_of_the_first_picture()?;
    for tp in [1, 2] {
        let (wide, fp8) = (described(tp, [("--quantization", "none")]).await?, described(tp, [("--quantization", "fp8")]).await?);
        assert_eq!(fp8.tokens, expected, "on {tp} GPUs");
        // A byte off each of three layers' 245,760 weights. Of each layer 1,280 outputs have a scale, and on every rank 256 more.
        let scales = 3.0 * 4.0 * (1280.0 + 256.0 * f64::from(tp));
        assert_eq!(wide.weight_bytes - fp8.weight_bytes, 3.0 * 245_760.0 - scales, "on {tp} GPUs");
    }
    Ok(())
}

#[test]
fn numbers_that_no_gpu_computes_in_are_refused_before_anything_is_started() {
    let model = fixtures().join("shapes");
    let mut up = Command::new(binary().unwrap());
    let up = up.args(["up", "--device", "cuda", "--dtype", "f32", "--model"]).arg(model).output().unwrap();
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(!up.status.success() && said.contains("--dtype f32: GPUs compute in bf16 alone"), "{said}");
}

#[test]
fn without_a_driver_the_first_word_is_what_is_missing() {
    let model = fixtures().join("shapes");
    let up = Command::new(binary().unwrap()).args(["up", "--device", "cuda", "--model"]).arg(model).output().unwrap();
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(!up.status.success());
    assert!(said.contains("--device cuda:0") && said.contains("libcuda.so.1 cannot be opened"), "{said}");
}

#[test]
fn a_gpu_without_room_is_named_at_start() {
    let up = Command::new(binary().unwrap())
        .args(["up", "--device", "cuda", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--model"])
        .arg(fixtures().join("shapes"))
        .envs(tessera_test_gpu::environment(1))
        .env("FAKE_CUDA_OOM_AFTER", "100000000")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(!up.status.success());
    assert!(said.contains("error: the replica cannot start") && said.contains("the key and value cache needs"), "{said}");
}
