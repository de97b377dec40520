//! A start that cannot succeed ends before anything is loaded.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use tempfile::tempdir;
use tessera_tests::{binary, fixtures};
use tokio::{net::TcpListener, process::Command, time::timeout};

/// What it says, logs included, when it fails to start with `more` options.
async fn fails(command: &[&str], more: &[&str]) -> Result<String> {
    let run = Command::new(binary()?)
        .args(command)
        .arg("--model")
        .arg(fixtures().join("shapes"))
        .args(more)
        .env("TESSERA_LOG", "info")
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(30), run).await.context("it neither failed nor ended")??;
    assert!(!output.status.success(), "it should not start");
    Ok([output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat())
}

/// As a whole cluster, and as a router alone.
const COMMANDS: [&[&str]; 2] = [&["up"], &["router", "--replica", "127.0.0.1:1"]];

#[tokio::test]
async fn a_port_in_use_is_named_before_anything_is_loaded() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let address = taken.local_addr()?.to_string();
    for command in COMMANDS {
        for options in [["--grpc", &address, "--http", "127.0.0.1:0"], ["--grpc", "127.0.0.1:0", "--http", &address]] {
            let said = fails(command, &options).await?;
            assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
            assert!(!said.contains("claimed") && !said.contains("loaded"), "{said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn weights_and_caches_that_cannot_be_in_fp8_are_refused_by_the_option_before_anything_is_loaded() -> Result<()> {
    for (option, options, problem) in [
        ("--quantization", &["--device", "cpu"][..], "fp8 goes with --device cuda or sim:NAME"),
        ("--quantization", &["--device", "sim:h100", "--dtype", "f32"], "fp8 goes with --dtype bf16"),
        ("--kv-cache-dtype", &["--device", "cpu"], "fp8 goes with --device cuda or sim:NAME"),
        ("--kv-cache-dtype", &["--device", "sim:h100", "--dtype", "f32"], "fp8 goes with --dtype bf16"),
    ] {
        let fp8 = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", option, "fp8"];
        let said = fails(&["up"], &[&fp8[..], options].concat()).await?;
        assert!(said.contains(&format!("{option} {problem}")), "{said}");
        assert!(!said.contains("claimed") && !said.contains("loaded"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn front_certificates_that_cannot_be_used_are_named_before_anything_is_loaded() -> Result<()> {
    let folder = tempdir()?;
    let [cert, key, missing] = ["cert.pem", "key.pem", "missing.pem"].map(|name| folder.path().join(name).display().to_string());
    fs::write(&cert, "no certificate")?;
    fs::write(&key, "no key")?;
    for command in COMMANDS {
        for (cert, at_fault) in [(&cert, &cert), (&missing, &missing)] {
            let free = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"];
            let options = [&free[..], &["--front-tls-cert", cert, "--front-tls-key", &key]].concat();
            let said = fails(command, &options).await?;
            assert!(said.contains(at_fault.as_str()), "{said}");
            assert!(!said.contains("claimed") && !said.contains("loaded"), "{said}");
        }
    }
    Ok(())
}
