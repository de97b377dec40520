//! The whole way of a request on GPUs: stand-ins on the CPU, the real binary, real NCCL calls between ranks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::process::Command;

use anyhow::Result;
use tessera_tests::{
    Up, binary, fixtures,
    load::{Lives, ask, picture, reference_of_the_first_picture},
};

/// What the learned model says of the first picture at a degree, images shared in some way.
async fn described(tp: u16, vision_parallel: &str) -> Result<Vec<u32>> {
    let up = Up::new(fixtures().join("shapes")).on_gpus().with("--kv-memory", "16MiB").with("--tp", tp);
    let up = up.with("--vision-parallel", vision_parallel);
    let cluster = up.start().await?;
    let answer = ask(&cluster.grpc, &picture()?, &Lives::default()).await?;
    assert_eq!(cluster.stop().await?, Some(0));
    Ok(answer.sequences[&0].tokens.clone())
}

#[tokio::test]
async fn one_gpu_describes_a_picture_as_the_reference_does() -> Result<()> {
    assert_eq!(described(1, "auto").await?, reference_of_the_first_picture()?);
    Ok(())
}

#[tokio::test]
async fn several_gpus_describe_a_picture_as_one_does() -> Result<()> {
    let expected = reference_of_the_first_picture()?;
    for (tp, way) in [(2, "auto"), (4, "auto"), (2, "tensor"), (4, "image")] {
        assert_eq!(described(tp, way).await?, expected, "on {tp} GPUs, {way}");
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
