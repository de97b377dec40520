//! etcd without its leader, and no etcd at all.

use std::time::Duration;

use anyhow::{Result, ensure};
use tessera_tests::fleet::{Fleet, Plan, Status};
use tokio::time::{Instant, sleep};

use crate::harness::Scene;

/// How long etcd is away before a rank dies: for several leases.
const AWAY: Duration = Duration::from_secs(15);
/// How long the report may take; far more than it needs.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::test]
async fn no_stream_notices_that_etcds_leader_is_killed() -> Result<()> {
    let mut scene = Scene::of(Plan { workers: 4, coordinators: 2, ..Plan::default() }).await?;
    let before = scene.fleet.status().await?;
    let leader = scene.fleet.etcd.leader().await;
    scene.fleet.etcd.kill(leader);
    scene.fleet.etcd.leader().await;
    scene.load.flows().await?;
    scene.fleet.etcd.restart(leader);
    scene.fleet.etcd.ready().await;
    let after = scene.fleet.status().await?;
    for replica in ["c0", "c1"] {
        ensure!(after.epoch(replica) == before.epoch(replica), "{replica} was re-formed: {after}");
    }
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test]
async fn without_etcd_all_goes_on_and_a_rank_killed_meanwhile_is_reported_and_replaced_when_it_is_back() -> Result<()> {
    let mut scene = Scene::of(Plan { workers: 5, coordinators: 2, ..Plan::default() }).await?;
    let before = scene.fleet.status().await?;
    (0..3).for_each(|node| scene.fleet.etcd.kill(node));
    scene.load.answers().await?;
    sleep(AWAY).await;
    let killed = before.ranks("c0")[0].to_owned();
    scene.fleet.kill(&killed)?;
    is_reported_as_degraded(&scene.fleet, "c0", &killed).await?;
    scene.load.answers().await?;
    (0..3).for_each(|node| scene.fleet.etcd.restart(node));
    scene.fleet.etcd.ready().await;
    let whole = |status: &Status| {
        let ranks = status.ranks("c0");
        status.ready() == 2 && ranks.len() == 2 && !ranks.contains(&killed.as_str())
    };
    let after = scene.fleet.wait_for("group without the dead worker", whole).await?;
    ensure!(after.epoch("c1") == before.epoch("c1"), "the other replica was re-formed: {after}");
    ensure!(after.lost("c0").is_empty() && after.problem("c0").is_empty(), "{after}");
    is_reported_as_whole(&scene.fleet, "c0").await?;
    scene.ends_well().await?;
    Ok(())
}

/// Whoever asks the coordinator itself is told which rank is lost, and why it is not replaced.
async fn is_reported_as_degraded(fleet: &Fleet, name: &str, worker: &str) -> Result<()> {
    let coordinator = fleet.coordinator(name)?;
    let told = |text: &str| text.contains("rank 0") && text.contains(worker) && text.contains("the registry cannot be reached");
    let until = Instant::now() + SOON;
    let (readiness, status) = loop {
        let (readiness, status) = (coordinator.readiness().await?, coordinator.status().await?);
        if (told(&readiness.1) && told(status.problem(name))) || Instant::now() > until {
            break (readiness, status);
        }
        sleep(LOOK).await;
    };
    ensure!(readiness.0 == 503 && told(&readiness.1), "/readyz: {readiness:?}");
    ensure!(status.ready() == 0 && status.lost(name) == [0] && told(status.problem(name)), "{status}");
    ensure!(coordinator.metric(&lost(name, 0)).await? == 1.0 && coordinator.metric(&lost(name, 1)).await? == 0.0);
    ensure!(coordinator.metric(&away(name)).await? >= AWAY.as_secs_f64(), "the registry is away for longer");
    // The other replica serves, and says that nothing could be replaced now.
    let other = fleet.coordinator("c1")?;
    ensure!(other.readiness().await?.0 == 200 && other.metric(&away("c1")).await? >= AWAY.as_secs_f64());
    Ok(())
}

async fn is_reported_as_whole(fleet: &Fleet, name: &str) -> Result<()> {
    let coordinator = fleet.coordinator(name)?;
    let readiness = coordinator.readiness().await?;
    ensure!(readiness.0 == 200, "{readiness:?}");
    ensure!(coordinator.metric(&lost(name, 0)).await? == 0.0 && coordinator.metric(&away(name)).await? == 0.0);
    Ok(())
}

fn lost(replica: &str, rank: u16) -> String {
    format!(r#"tessera_rank_lost{{replica="{replica}",rank="{rank}"}}"#)
}

fn away(replica: &str) -> String {
    format!(r#"tessera_registry_away_seconds{{replica="{replica}"}}"#)
}
