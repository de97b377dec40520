//! Addresses given by hand where nobody answers, or somebody else.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result};
use tessera_tests::{Role, binary, fixtures};
use tokio::{net::TcpListener, process::Command, time::sleep};

use crate::replica::Replica;

/// An address where nobody listens.
async fn nobody() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}

/// What a URL answers with, once it answers with all of these words.
async fn until(url: &str, words: &[&str]) -> Result<String> {
    let mut last = String::new();
    for _ in 0..600 {
        if let Ok(response) = reqwest::get(url).await {
            last = response.text().await?;
            if words.iter().all(|word| last.contains(word)) {
                return Ok(last);
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{url} never said all of {words:?}; at last: {last}")
}

fn words(command: &str) -> Vec<String> {
    command.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_router_tells_of_replicas_that_do_not_answer_or_serve_another_model() -> Result<()> {
    let replica = Replica::start(|_| Ok(Vec::new()), &[]).await?;
    let model = fixtures().join("tiny-random/mistral").display().to_string();
    let (coordinator, away) = (replica.coordinator.address("listen")?, nobody().await?);
    let router = format!(
        "router --model {model} --served-model-name other --replica {coordinator} --replica {away} \
         --grpc 127.0.0.1:0 --http 127.0.0.1:0"
    );
    let router = Role::start(&words(&router), &[]).await?;
    let health = format!("{}/health", router.address("http")?);
    let words = ["not ready", "0 of 2", "serves the model `mistral`, not `other`", &away, "Connection refused"];
    let said = until(&health, &words).await?;
    assert!(said.contains(&coordinator), "{said}");
    router.stop().await?;
    replica.stop().await
}

#[tokio::test]
async fn a_coordinator_tells_of_a_worker_that_does_not_answer() -> Result<()> {
    let model = fixtures().join("tiny-random/mistral").display().to_string();
    let (away, status) = (nobody().await?, nobody().await?);
    let command = format!("coordinator --model {model} --worker {away} --listen 127.0.0.1:0 --status {status}");
    let mut launch = Command::new(binary()?);
    launch.args(words(&command)).env("TESSERA_LOG", "warn").stdin(Stdio::null());
    let mut coordinator = launch.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    until(&format!("http://{status}/readyz"), &[&away, "Connection refused"]).await?;
    coordinator.start_kill()?;
    let output = coordinator.wait_with_output().await.context("it did not end")?;
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    let told: Vec<_> = said.lines().filter(|line| line.contains("WARN") && line.contains(&away)).collect();
    assert!(told.len() == 1 && told[0].contains("Connection refused"), "{said}");
    Ok(())
}
