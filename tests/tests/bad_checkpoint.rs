//! A checkpoint that cannot be served ends the start with the file and the tensor at fault.

use std::{fs, path::Path, process::Output, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tessera_tests::{binary, fixtures};
use tokio::{process::Command, time::timeout};

fn copy(layout: &str) -> Result<TempDir> {
    let folder = TempDir::new()?;
    for entry in fs::read_dir(fixtures().join("tiny-random").join(layout))? {
        let entry = entry?;
        fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    Ok(folder)
}

async fn up(folder: &Path, more: &[&str]) -> Result<Output> {
    let run = Command::new(binary()?)
        .args(["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--kv-memory", "8MiB", "--model"])
        .arg(folder)
        .args(more)
        .kill_on_drop(true)
        .output();
    timeout(Duration::from_secs(30), run).await.context("it neither failed nor ended")?.context("cannot run tessera")
}

/// Starts it, and wants a failure whose words contain all of `mentions`.
async fn fails(folder: &Path, more: &[&str], mentions: &[&str]) -> Result<()> {
    let output = up(folder, more).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it should not start");
    for mention in mentions {
        assert!(said.contains(mention), "no mention of `{mention}` in:\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn an_empty_folder_is_named() -> Result<()> {
    let folder = TempDir::new()?;
    fails(folder.path(), &[], &["params.json", "config.json"]).await
}

#[tokio::test]
async fn a_missing_shard_is_named() -> Result<()> {
    let folder = copy("hf")?;
    fs::remove_file(folder.path().join("model-00003-of-00004.safetensors"))?;
    fails(folder.path(), &[], &["model-00003-of-00004.safetensors"]).await
}

#[tokio::test]
async fn a_truncated_file_is_named() -> Result<()> {
    let folder = copy("mistral")?;
    let file = folder.path().join("consolidated.safetensors");
    let length = fs::metadata(&file)?.len();
    fs::OpenOptions::new().write(true).open(&file)?.set_len(length / 2)?;
    fails(folder.path(), &[], &["consolidated.safetensors"]).await
}

#[tokio::test]
async fn a_tensor_of_the_wrong_shape_is_named() -> Result<()> {
    let folder = copy("mistral")?;
    let file = folder.path().join("params.json");
    let params = fs::read_to_string(&file)?.replace("\"hidden_dim\": 704", "\"hidden_dim\": 708");
    fs::write(&file, params)?;
    fails(folder.path(), &[], &["consolidated.safetensors", "layers.0.feed_forward.w", "704", "708"]).await
}

#[tokio::test]
async fn a_missing_tensor_is_named() -> Result<()> {
    let folder = copy("mistral")?;
    let file = folder.path().join("params.json");
    let params = fs::read_to_string(&file)?.replace("\"n_layers\": 4", "\"n_layers\": 5");
    fs::write(&file, params)?;
    fails(folder.path(), &[], &["consolidated.safetensors", "layers.4."]).await
}

#[tokio::test]
async fn a_degree_that_cannot_work_is_refused_with_the_reason() -> Result<()> {
    let folder = fixtures().join("tiny-random/mistral");
    fails(&folder, &["--tp", "3"], &["1, 2, 4 or 8"]).await?;
    fails(&folder, &["--tp", "8"], &["vision encoder's heads", "8"]).await
}
