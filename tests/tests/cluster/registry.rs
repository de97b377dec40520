//! etcd without its leader, and no etcd at all.

use std::time::Duration;

use anyhow::{Result, ensure};
use tessera_tests::fleet::Plan;
use tokio::time::sleep;

use crate::harness::Scene;

/// How long etcd is away: for several leases.
const AWAY: Duration = Duration::from_secs(15);

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
async fn without_etcd_all_goes_on_and_a_rank_killed_meanwhile_is_replaced_when_it_is_back() -> Result<()> {
    let mut scene = Scene::of(Plan { workers: 5, coordinators: 2, ..Plan::default() }).await?;
    let before = scene.fleet.status().await?;
    (0..3).for_each(|node| scene.fleet.etcd.kill(node));
    let answered = scene.load.answered();
    sleep(AWAY).await;
    scene.load.flows().await?;
    ensure!(scene.load.answered() > answered, "no request was answered meanwhile");
    let killed = before.ranks("c0")[0].to_owned();
    scene.fleet.kill(&killed)?;
    scene.load.flows().await?;
    (0..3).for_each(|node| scene.fleet.etcd.restart(node));
    scene.fleet.etcd.ready().await;
    let whole = |status: &tessera_tests::fleet::Status| status.ready() == 2 && !status.ranks("c0").contains(&killed.as_str());
    let after = scene.fleet.wait_for("group without the dead worker", whole).await?;
    ensure!(after.epoch("c1") == before.epoch("c1"), "the other replica was re-formed: {after}");
    scene.ends_well().await?;
    Ok(())
}
