//! Clients that nobody here wrote: `openai` over HTTP, and Python's gRPC with nothing but reflection.
//!
//! They need a Python with the packages of `tests/requirements.txt`, which `tests/run.sh` prepares and names in
//! `TESSERA_PYTHON`; without it these tests say that they are skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::{env, io::Write as _};

use anyhow::{Context, Result};
use tessera_tests::{Up, fixtures};
use tokio::process::Command;

async fn python(script: &str, arguments: &[&str]) -> Result<Option<String>> {
    let Some(python) = env::var_os("TESSERA_PYTHON") else {
        // What tests print is shown only of those that fail.
        writeln!(std::io::stderr(), "skipped: TESSERA_PYTHON is not set; run tests/run.sh")?;
        return Ok(None);
    };
    let script = fixtures().join("../clients").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().await.context("cannot run Python")?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

#[tokio::test]
async fn the_openai_client_chats_about_a_picture() -> Result<()> {
    let shapes = fixtures().join("shapes");
    let cluster = Up::new(&shapes).with("--tp", 2).start().await?;
    let picture = shapes.join("pictures").read_dir()?.next().context("no pictures")??.path();
    let picture = picture.to_str().context("a strange path")?;
    python("openai_chat.py", &[&cluster.http, "shapes", picture]).await?;
    Ok(())
}

#[tokio::test]
async fn a_client_with_nothing_but_reflection_finds_its_way() -> Result<()> {
    let cluster = Up::new(fixtures().join("tiny-random/mistral")).start().await?;
    if let Some(model) = python("reflection.py", &[&cluster.grpc]).await? {
        assert_eq!(model, "mistral");
    }
    Ok(())
}
