//! Routers that die.

use anyhow::{Result, ensure};
use tessera_tests::{fleet::Plan, load::Load};

use crate::harness::{STREAMS, Scene, alone, asked};

#[tokio::test]
async fn the_other_router_serves_on_when_one_is_killed() -> Result<()> {
    let mut scene = Scene::of(Plan { workers: 2, routers: 2, ..Plan::default() }).await?;
    scene.fleet.kill("r0")?;
    scene.load.flows().await?;
    scene.fleet.restart("r0").await?;
    let report = scene.ends_well().await?;
    ensure!(report.asked_again > 0 && report.asked_again <= STREAMS as u64, "{report}");
    Ok(())
}

#[tokio::test]
async fn what_a_killed_router_asked_for_is_freed() -> Result<()> {
    let _alone = alone().await;
    let mut fleet = tessera_tests::fleet::Fleet::start(Plan { workers: 2, ..Plan::default() }).await?;
    let load = Load::start(fleet.doors(), asked().await?, STREAMS);
    load.flows().await?;
    ensure!(fleet.status().await?.sequences() > 0, "nothing runs");
    fleet.kill("r0")?;
    // Nobody else asks: what still runs would be the dead router's.
    fleet.wait_for("free replica", |status| status.sequences() == 0).await?;
    fleet.restart("r0").await?;
    load.flows().await?;
    let report = load.stop().await?;
    ensure!(report.failures.is_empty(), "{report}:\n{}", report.failures.join("\n"));
    Ok(())
}
