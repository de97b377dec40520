//! The programs that make networks.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `ip`, of iproute2.
pub(super) fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

/// Gives commands to `nft` in a namespace.
pub(super) fn nft(namespace: &str, commands: &[&str]) -> Result<()> {
    run("ip", &["netns", "exec", namespace, "nft", &commands.join("; ")])
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
