//! Ranks that die, stop and wake.

use anyhow::Result;
use tessera_tests::fleet::Plan;

use crate::harness::Scene;

/// Kills the worker that is `rank` of the only replica.
async fn kill_rank(rank: usize) -> Result<()> {
    let mut scene = Scene::of(Plan::default()).await?;
    let before = scene.fleet.status().await?;
    let worker = before.ranks("c0")[rank].to_owned();
    scene.fleet.kill(&worker)?;
    let formed = |status: &tessera_tests::fleet::Status| {
        let ranks = status.ranks("c0");
        ranks.len() == 2 && !ranks.contains(&worker.as_str()) && status.epoch("c0") > before.epoch("c0")
    };
    scene.fleet.wait_for("group without the dead worker", formed).await?;
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test]
async fn no_stream_notices_that_rank_0_is_killed() -> Result<()> {
    kill_rank(0).await
}

#[tokio::test]
async fn no_stream_notices_that_rank_1_is_killed() -> Result<()> {
    kill_rank(1).await
}

#[tokio::test]
async fn a_rank_that_is_stopped_is_replaced_and_is_a_spare_when_it_wakes() -> Result<()> {
    let mut scene = Scene::of(Plan::default()).await?;
    let before = scene.fleet.status().await?;
    let worker = before.ranks("c0")[1].to_owned();
    scene.fleet.pause(&worker)?;
    let without =
        |status: &tessera_tests::fleet::Status| status.ranks("c0").len() == 2 && !status.ranks("c0").contains(&worker.as_str());
    let replaced = scene.fleet.wait_for("group without the stopped worker", without).await?;
    scene.fleet.resume(&worker)?;
    let spare = scene.fleet.wait_for("spare again", |status| status.spares() == [worker.as_str()]).await?;
    assert_eq!(spare.epoch("c0"), replaced.epoch("c0"), "its waking disturbs nobody");
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test]
async fn without_a_spare_the_streams_of_a_broken_group_go_on_at_the_other_replica() -> Result<()> {
    let mut scene = Scene::of(Plan { workers: 4, coordinators: 2, ..Plan::default() }).await?;
    let before = scene.fleet.status().await?;
    let worker = before.ranks("c0")[1].to_owned();
    scene.fleet.kill(&worker)?;
    scene.fleet.wait_for("replica without its workers", |status| status.ranks("c0").is_empty()).await?;
    // Every stream ends well, within the scene's bound, which is below what a replica alone would wait for workers.
    scene.ends_well().await?;
    Ok(())
}
