//! The `tessera` binary: every role, a whole local cluster, and a client. It wires; the services decide.

mod bench;
mod chat;
mod cli;
mod client;
mod cluster;
mod demo;
mod device;
mod drain;
mod memory;
mod progress;
mod roles;
mod settings;
mod status;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tessera_service::{Telemetry, TelemetryConfig};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(run(cli.command));
        // A blocking read of the terminal must not keep the process.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            progress::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked; false where it went well and the answer is no.
async fn run(command: Command) -> Result<bool> {
    let (service, filter) = match &command {
        Command::Demo(_) | Command::Chat(_) | Command::Bench(_) | Command::Status(_) | Command::Drain(_) => ("tessera", "error"),
        Command::Up(_) => ("tessera-up", "info"),
        Command::Router(_) => ("tessera-router", "info"),
        Command::Coordinator(_) => ("tessera-coordinator", "info"),
        Command::ShardWorker(_) => ("tessera-shard-worker", "info"),
    };
    let _telemetry = Telemetry::start(&TelemetryConfig::from_env(service, filter))?;
    match command {
        Command::Demo(args) => return demo::run(args).await,
        Command::Up(args) => roles::up(args).await?,
        Command::Chat(args) => chat::run(args).await?,
        Command::Bench(args) => bench::run(args).await?,
        Command::Router(args) => roles::router(args).await?,
        Command::Coordinator(args) => roles::coordinator(args).await?,
        Command::ShardWorker(args) => roles::shard_worker(args).await?,
        Command::Status(args) => status::run(args).await?,
        Command::Drain(args) => drain::run(args).await?,
    }
    Ok(true)
}
