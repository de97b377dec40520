//! The clients of the command line, at a front door with TLS.

use std::process::Output;

use anyhow::Result;
use tessera_tests::{Up, binary, fixtures};
use tokio::process::Command;

use crate::certificates::Certificates;

async fn run(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?).args(arguments).kill_on_drop(true).output().await?)
}

#[tokio::test]
async fn chat_and_bench_trust_the_authority_they_are_given_and_no_other() -> Result<()> {
    let (ours, theirs) = (Certificates::new()?, Certificates::new()?);
    let front = ours.of("front")?;
    let up = Up::new(fixtures().join("shapes")).with("--front-tls-cert", front.cert.display());
    let cluster = up.with("--front-tls-key", front.key.display()).start().await?;
    assert!(cluster.grpc.starts_with("https://"), "{}", cluster.grpc);
    let (ca, other) = (front.ca.display().to_string(), theirs.of("front")?.ca.display().to_string());
    let bare = cluster.grpc.trim_start_matches("https://");
    let chat = ["chat", "--max-tokens", "4", "How many?"];
    let bench = ["bench", "--requests", "2", "--prompt-tokens", "8", "--output-tokens", "4"];
    for client in [&chat[..], &bench] {
        for endpoint in [cluster.grpc.as_str(), bare] {
            let output = run(&[client, &["--endpoint", endpoint, "--ca", &ca]].concat()).await?;
            assert!(output.status.success(), "{output:?}");
        }
        let refused = [
            (vec!["--endpoint", &cluster.grpc, "--ca", &other], "invalid peer certificate"),
            (vec!["--endpoint", &cluster.grpc], "UnknownIssuer"),
            (vec!["--endpoint", &cluster.grpc, "--ca", "/nonexistent.pem"], "/nonexistent.pem"),
            (vec!["--endpoint", "http://127.0.0.1:1", "--ca", &ca], "plain address"),
        ];
        for (options, word) in refused {
            let output = run(&[client, &options].concat()).await?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains(word), "{options:?}: {said}");
        }
    }
    assert_eq!(cluster.stop().await?, Some(0));
    Ok(())
}
