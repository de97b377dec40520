//! Coordinators that die.

use anyhow::{Result, ensure};
use tessera_tests::fleet::Plan;

use crate::harness::Scene;

#[tokio::test]
async fn a_second_replica_takes_over_what_a_killed_coordinator_had() -> Result<()> {
    let mut scene = Scene::of(Plan { workers: 4, coordinators: 2, ..Plan::default() }).await?;
    scene.fleet.kill("c0")?;
    scene.load.flows().await?;
    scene.fleet.restart("c0").await?;
    scene.fleet.wait_for("two replicas again", |status| status.ready() == 2).await?;
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test]
async fn a_spare_coordinator_goes_on_with_the_same_workers_and_their_weights() -> Result<()> {
    let mut scene = Scene::of(Plan { workers: 2, coordinators: 2, ..Plan::default() }).await?;
    let before = scene.fleet.status().await?;
    let serving = before.serving().first().copied().map(str::to_owned).unwrap_or_default();
    let spare = if serving == "c0" { "c1" } else { "c0" };
    scene.fleet.kill(&serving)?;
    let after = scene.fleet.wait_for("spare that serves", |status| status.serving() == [spare]).await?;
    ensure!(after.ranks(spare) == before.ranks(&serving), "{before}\n{after}");
    scene.load.flows().await?;
    let report = scene.load.stop().await?;
    // New requests are told to come back when there is no replica for longer than a router is patient.
    ensure!(report.failures.is_empty(), "{report}:\n{}", report.failures.join("\n"));
    Ok(())
}
