//! Processes that are told to leave.

use anyhow::{Result, ensure};
use tessera_tests::fleet::Plan;

use crate::harness::Scene;

fn two_replicas_and_a_spare() -> Plan {
    Plan { workers: 5, coordinators: 2, routers: 2, ..Plan::default() }
}

#[tokio::test]
async fn a_worker_is_drained_where_there_is_a_spare() -> Result<()> {
    let mut scene = Scene::of(Plan::default()).await?;
    let worker = scene.fleet.status().await?.ranks("c0")[0].to_owned();
    scene.fleet.drain(&worker).await?;
    scene.fleet.ended(&worker).await?;
    let status = scene.fleet.wait_for("group", |status| status.ready() == 1).await?;
    ensure!(!status.ranks("c0").contains(&worker.as_str()), "{status}");
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test]
async fn a_replica_is_drained_where_there_is_another() -> Result<()> {
    let mut scene = Scene::of(two_replicas_and_a_spare()).await?;
    scene.fleet.drain("c0").await?;
    scene.fleet.ended("c0").await?;
    let status = scene.fleet.wait_for("one replica", |status| status.counts()[0] == 1).await?;
    ensure!(status.serving() == ["c1"], "{status}");
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test]
async fn every_role_stops_on_sigterm_without_an_error_to_anyone() -> Result<()> {
    let mut scene = Scene::of(two_replicas_and_a_spare()).await?;
    let worker = scene.fleet.status().await?.ranks("c1")[1].to_owned();
    for name in [worker.as_str(), "c0", "r0"] {
        scene.fleet.terminate(name)?;
        scene.fleet.ended(name).await?;
        scene.load.flows().await?;
        scene.fleet.restart(name).await?;
        scene.fleet.wait_for("two replicas again", |status| status.ready() == 2).await?;
    }
    scene.ends_well().await?;
    Ok(())
}
