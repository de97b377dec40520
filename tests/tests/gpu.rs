//! The whole way of a request on GPUs: stand-ins on the CPU, the real binary, real NCCL calls between ranks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::process::Command;

use anyhow::{Context, Result};
use tessera_tests::{
    Up, binary, fixtures,
    load::{Lives, ask, picture, reference_of_the_first_picture},
};

/// What the learned model says of the first picture at a degree, with other options, and the bytes of its weights.
async fn described<const N: usize>(tp: u16, options: [(&str, &str); N]) -> Result<(Vec<u32>, f64)> {
    let up = Up::new(fixtures().join("shapes")).on_gpus().with("--kv-memory", "16MiB").with("--tp", tp);
    let up = options.into_iter().fold(up, |up, (option, value)| up.with(option, value));
    let cluster = up.start().await?;
    let answer = ask(&cluster.grpc, &picture()?, &Lives::default()).await?;
    let metrics = reqwest::get(format!("{}/metrics", cluster.http)).await?.text().await?;
    assert_eq!(cluster.stop().await?, Some(0));
    Ok((answer.sequences[&0].tokens.clone(), weight_bytes(&metrics)?))
}

/// Of all ranks, which share a process.
fn weight_bytes(metrics: &str) -> Result<f64> {
    let ranks = metrics.lines().filter(|line| line.starts_with("tessera_rank_weight_bytes{"));
    ranks.map(|line| Ok(line.rsplit(' ').next().context("a value")?.parse::<f64>()?)).sum()
}

#[tokio::test]
async fn one_gpu_describes_a_picture_as_the_reference_does() -> Result<()> {
    assert_eq!(described(1, [("--vision-parallel", "auto")]).await?.0, reference_of_the_first_picture()?);
    Ok(())
}

#[tokio::test]
async fn several_gpus_describe_a_picture_as_one_does() -> Result<()> {
    let expected = reference_of_the_first_picture()?;
    for (tp, way) in [(2, "auto"), (4, "auto"), (2, "tensor"), (4, "image")] {
        assert_eq!(described(tp, [("--vision-parallel", way)]).await?.0, expected, "on {tp} GPUs, {way}");
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
        assert_eq!(fp8.0, expected, "on {tp} GPUs");
        // A byte off each of three layers' 245,760 weights. Of each layer 1,280 outputs have a scale, and on every rank 256 more.
        let scales = 3.0 * 4.0 * (1280.0 + 256.0 * f64::from(tp));
        assert_eq!(wide.1 - fp8.1, 3.0 * 245_760.0 - scales, "on {tp} GPUs");
    }
    Ok(())
}

/// Two ranks quantise what one does, a token's key and value of a head each by itself.
#[tokio::test]
async fn the_learned_model_describes_a_picture_over_keys_and_values_in_fp8() -> Result<()> {
    let expected = reference_of_the_first_picture()?;
    for tp in [1, 2] {
        assert_eq!(described(tp, [("--kv-cache-dtype", "fp8")]).await?.0, expected, "on {tp} GPUs");
        let both = [("--quantization", "fp8"), ("--kv-cache-dtype", "fp8")];
        assert_eq!(described(tp, both).await?.0, expected, "on {tp} GPUs, with weights in fp8");
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
