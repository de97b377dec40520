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
    // A fleet may move its thread into a network of its own.
    let alone = Builder::new_current_thread().enable_all().build()?;
    if args.measure {
        alone.block_on(measure::measure())?;
    }
    if args.measure || args.simulated {
        return Builder::new_multi_thread().enable_all().build()?.block_on(simulated::measure());
    }
    alone.block_on(storm(args.faults, args.seed, |line| println!("{line}")))?;
    Ok(())
}
