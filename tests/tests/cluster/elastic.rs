//! Replicas that shrink and grow.

use anyhow::Result;
use tessera_tests::fleet::Plan;

use crate::harness::Scene;

#[tokio::test]
async fn a_replica_without_a_spare_goes_on_with_one_rank_and_grows_again() -> Result<()> {
    let mut scene = Scene::of(Plan { workers: 2, later: 1, elastic: true, ..Plan::default() }).await?;
    let worker = scene.fleet.status().await?.ranks("c0")[1].to_owned();
    scene.fleet.kill(&worker)?;
    scene.fleet.wait_for("group of one rank", |status| status.ranks("c0").len() == 1).await?;
    scene.load.flows().await?;
    scene.fleet.restart("w2").await?;
    scene.fleet.wait_for("group of two ranks", |status| status.ranks("c0").len() == 2).await?;
    scene.ends_well().await?;
    Ok(())
}
