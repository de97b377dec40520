//! Workers that are far away.

use std::time::Duration;

use anyhow::{Result, ensure};
use tessera_tests::fleet::{Pace, Plan, Status};

use crate::harness::Scene;

/// One way; an answer takes twice as long, and a bit more.
const PACE: Pace = Pace { latency: Duration::from_millis(40), jitter: Duration::from_millis(10), seed: 5, bytes_per_second: 0 };

#[tokio::test]
async fn far_away_workers_are_driven_and_replaced_and_nobody_is_taken_for_dead_who_lives() -> Result<()> {
    let mut scene = Scene::of(Plan { linked: 3, pace: PACE, ..Plan::default() }).await?;
    // A few seconds of steps, pulses and leases.
    while scene.load.answered() < 2 {
        scene.load.flows().await?;
    }
    let before = scene.fleet.status().await?;
    ensure!(before.groups("c0") == 1, "the group was re-formed for nothing: {before}");
    let [killed, survivor] = [0, 1].map(|rank| before.ranks("c0")[rank].to_owned());
    let record = format!("/tessera/v1/workers/{survivor}");
    let registered = scene.fleet.etcd.created(&record).await;
    ensure!(registered > 0, "no {record}");
    scene.fleet.kill(&killed)?;
    let whole = |status: &Status| status.ranks("c0").len() == 2 && !status.ranks("c0").contains(&killed.as_str());
    scene.fleet.wait_for("group without the dead worker", whole).await?;
    let answered = scene.load.answered();
    while scene.load.answered() < answered + 2 {
        scene.load.flows().await?;
    }
    let after = scene.fleet.status().await?;
    ensure!(after.groups("c0") == 2, "the group was re-formed for nothing: {after}");
    ensure!(scene.fleet.etcd.created(&record).await == registered, "the lease of {survivor} ended although it lives");
    scene.ends_well().await?;
    Ok(())
}
