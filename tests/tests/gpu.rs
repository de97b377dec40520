//! The whole way of a request on GPUs: stand-ins on the CPU, the real binary, real NCCL calls between ranks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tessera_proto::v1;
use tessera_tests::{
    Cluster, Up, binary, fixtures,
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
async fn described<const N: usize>(tp: u16, options: [(&str, &str); N]) -> Result<Described> {
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

/// Two ranks quantise what one does, a token's key and value of a head each by itself.
#[tokio::test]
async fn the_learned_model_describes_a_picture_over_keys_and_values_in_fp8() -> Result<()> {
    let expected = reference_of_the_first_picture()?;
    for tp in [1, 2] {
        assert_eq!(described(tp, [("--kv-cache-dtype", "fp8")]).await?.tokens, expected, "on {tp} GPUs");
        let both = [("--quantization", "fp8"), ("--kv-cache-dtype", "fp8")];
        assert_eq!(described(tp, both).await?.tokens, expected, "on {tp} GPUs, with weights in fp8");
    }
    Ok(())
}

/// What the learned model says of the first picture, and how probable that and the prompt are.
async fn described_with_logprobs(cluster: &Cluster) -> Result<v1::GenerateOnceResponse> {
    let mut request = picture()?;
    let sampling = request.sampling.as_mut().context("a request that says how to sample")?;
    // A bias that changes the choice nowhere, and log-probabilities not at all.
    sampling.logit_bias.insert(7, -50.0);
    (sampling.logprobs, sampling.prompt_logprobs) = (Some(4), Some(2));
    Ok(cluster.client().await?.generate_once(request).await?.into_inner())
}

/// Each token's id and log-probability, and those of the most probable ones.
fn pairs(entry: &v1::TokenLogprob) -> Vec<(u32, f32)> {
    std::iter::once((entry.token_id, entry.logprob)).chain(entry.top.iter().map(|top| (top.token_id, top.logprob))).collect()
}

#[tokio::test]
async fn gpus_say_how_probable_answer_and_prompt_are() -> Result<()> {
    let up = || Up::new(fixtures().join("shapes")).with("--kv-memory", "16MiB");
    let host = up().with("--dtype", "bf16").start().await?;
    let wanted = described_with_logprobs(&host).await?;
    host.stop().await?;
    for tp in [1, 2] {
        let cluster = up().on_gpus().with("--tp", tp).start().await?;
        let got = described_with_logprobs(&cluster).await?;
        cluster.stop().await?;
        let (got_answer, wanted_answer) = (&got.completions[0], &wanted.completions[0]);
        assert_eq!(got_answer.token_ids, reference_of_the_first_picture()?, "on {tp} GPUs");
        assert_eq!(got_answer.logprobs.len(), got_answer.token_ids.len());
        assert_eq!(got.prompt_logprobs.len(), wanted.prompt_logprobs.len());
        for (got, wanted) in got_answer.logprobs.iter().zip(&wanted_answer.logprobs) {
            assert_eq!((got.token_id, got.top.len(), got.top[0].token_id), (wanted.token_id, 4, wanted.token_id), "greedy");
            assert_eq!(got.logprob, got.top[0].logprob);
        }
        let both = got_answer.logprobs.iter().zip(&wanted_answer.logprobs);
        for (got, wanted) in both.chain(got.prompt_logprobs.iter().zip(&wanted.prompt_logprobs)) {
            let (got, wanted) = (pairs(got), pairs(wanted));
            assert_eq!((got[0].0, got.len()), (wanted[0].0, wanted.len()));
            assert!(got[1..].iter().map(|(_, logprob)| logprob.exp()).sum::<f32>() < 1.0 + 1e-5, "{got:?}");
            assert!(got[1..].is_sorted_by(|a, b| a.1 >= b.1), "{got:?}");
            // Both round to bf16, in other places.
            let near = |(_, logprob): (u32, f32), other: (u32, f32)| (logprob - other.1).abs() < 0.1 + other.1.abs() / 20.0;
            assert!(near(got[0], wanted[0]), "on {tp} GPUs {got:?}, the CPU {wanted:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn openai_answers_of_gpus_have_log_probabilities() -> Result<()> {
    let cluster = Up::new(fixtures().join("shapes")).with("--kv-memory", "16MiB").on_gpus().with("--tp", 2).start().await?;
    let post = async |path: &str, body: Value| -> Result<Value> {
        let answer = reqwest::Client::new().post(format!("{}/v1/{path}", cluster.http)).json(&body).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    };
    let chat = json!({
        "messages": [{"role": "user", "content": "What do you see?"}],
        "max_tokens": 5, "temperature": 0, "logprobs": true, "top_logprobs": 3,
    });
    let chat = post("chat/completions", chat).await?;
    let content = chat["choices"][0]["logprobs"]["content"].as_array().context("log-probabilities")?;
    assert!(!content.is_empty());
    for entry in content {
        let top = entry["top_logprobs"].as_array().context("the most probable ones")?;
        assert_eq!((top.len(), &top[0]["token"], &top[0]["logprob"]), (3, &entry["token"], &entry["logprob"]), "greedy");
        assert!(entry["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0), "{entry}");
    }
    let text = json!({"prompt": "What do you see?", "max_tokens": 4, "temperature": 1, "seed": 3, "logprobs": 2});
    let again = [post("completions", text.clone()).await?, post("completions", text).await?];
    let [first, second] = again.each_ref().map(|answer| &answer["choices"][0]["logprobs"]);
    let lengths = ["tokens", "token_logprobs", "top_logprobs"].map(|list| first[list].as_array().map_or(0, Vec::len));
    assert!(lengths[0] > 0 && lengths == [lengths[0]; 3], "{first}");
    assert_eq!(first, second, "a sequence's numbers are its own");
    assert_eq!(cluster.stop().await?, Some(0));
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
