//! Workers on hosts of their own, whose cables fail: nobody is told, and no connection is reset.

use std::{fs, io::Write as _};

use anyhow::{Context, Result, ensure};
use tessera_tests::{
    fleet::{Fleet, Plan, RANKS, Status, WORKER_PORT},
    network::{Cable, Network},
};

use crate::harness::Scene;

/// Three workers on hosts of their own, or a word that there can be none.
async fn three_hosts() -> Result<Option<Scene>> {
    if let Err(reason) = Network::allowed() {
        // Not to standard output, which is shown of failed tests alone.
        writeln!(std::io::stderr(), "skipped: this process may not make network namespaces: {reason:#}")?;
        return Ok(None);
    }
    Scene::of(Plan { hosts: 3, ..Plan::default() }).await.map(Some)
}

/// Lets the cable of a rank of the only replica fail so while streams are open, and mends it once the group is whole.
async fn fails(scene: &mut Scene, rank: usize, cable: Cable) -> Result<()> {
    let fleet = &scene.fleet;
    let before = fleet.status().await?;
    let worker = before.ranks("c0")[rank].to_owned();
    fleet.cable(&worker, cable)?;
    let without = |status: &Status| status.ranks("c0").len() == 2 && !status.ranks("c0").contains(&worker.as_str());
    let replaced = fleet.wait_for(&format!("group without {worker}, {cable:?}"), without).await?;
    ensure!(replaced.epoch("c0") > before.epoch("c0"), "{replaced}");
    scene.load.flows().await?;
    fleet.cable(&worker, Cable::Whole)?;
    let spare = fleet.wait_for(&format!("spare again after {cable:?}"), |status| status.spares() == [worker.as_str()]).await?;
    ensure!(spare.epoch("c0") == replaced.epoch("c0"), "its return disturbs nobody: {spare}");
    Ok(())
}

#[tokio::test]
async fn no_stream_notices_that_the_cable_of_a_host_is_pulled() -> Result<()> {
    let Some(mut scene) = three_hosts().await? else { return Ok(()) };
    let status = scene.fleet.status().await?;
    let links = linked_ranks(&scene.fleet, status.ranks("c0")[1])?;
    ensure!(links > 0, "the ranks have not met over the network: {status}");
    for rank in [1, 0] {
        fails(&mut scene, rank, Cable::Pulled).await?;
    }
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test]
async fn no_stream_notices_that_a_host_hears_nothing_or_is_not_heard() -> Result<()> {
    let Some(mut scene) = three_hosts().await? else { return Ok(()) };
    if !scene.fleet.can_filter() {
        writeln!(std::io::stderr(), "skipped: nft cannot filter on a bridge here, so no cable fails one way")?;
        return Ok(());
    }
    for (rank, cable) in [(0, Cable::Deaf), (1, Cable::Mute)] {
        fails(&mut scene, rank, cable).await?;
    }
    scene.ends_well().await?;
    Ok(())
}

/// Connections between ranks on the host of a worker, as its kernel has them: established, and with a port of ranks.
fn linked_ranks(fleet: &Fleet, worker: &str) -> Result<usize> {
    const ESTABLISHED: &str = "01";
    let id = fleet.id(worker).with_context(|| format!("{worker} does not run"))?;
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp"))?;
    let port = |address: &str| address.split(':').nth(1).and_then(|port| u16::from_str_radix(port, 16).ok());
    let is_link = |line: &&str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let ends = columns.get(1..3).unwrap_or_default();
        columns.get(3) == Some(&ESTABLISHED) && ends.iter().filter_map(|end| port(end)).any(|port| port == WORKER_PORT + RANKS)
    };
    Ok(table.lines().skip(1).filter(is_link).count())
}
