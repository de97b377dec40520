//! A storm of any length, or how long clients wait when something dies. See tests/cluster.sh.

#![allow(clippy::print_stdout, reason = "its report goes to standard output")]

mod measure;
mod simulated;

use anyhow::Result;
use clap::Parser;
use tessera_tests::storm::storm;
use tokio::runtime::Builder;

/// What to do.
#[derive(Debug, Parser)]
struct Args {
    /// Faults that happen while 16 streams are always open.
    #[arg(long, default_value_t = 200)]
    faults: usize,
    /// What they are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure how long clients wait when something dies, in place of a storm.
    #[arg(long)]
    measure: bool,
    /// Measure a cluster of 200 simulated workers, in place of a storm.
    #[arg(long)]
    simulated: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let measures = args.measure || args.simulated;
    // A storm may move its thread into a network of its own; clients that measure want all cores.
    let mut runtime = if measures { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    runtime.enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    if args.measure {
        measure::measure().await?;
    }
    if args.measure || args.simulated {
        return simulated::measure().await;
    }
    storm(args.faults, args.seed, |line| println!("{line}")).await?;
    Ok(())
}
