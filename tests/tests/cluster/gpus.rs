//! Ranks on GPUs, processes of their own that NCCL joins; stand-ins on the CPU.

use std::sync::Arc;

use anyhow::Result;
use tessera_tests::{
    fleet::{Fleet, Plan},
    load::{Lives, ask, picture, reference_of_the_first_picture},
};
use tokio::time::{Duration, sleep};

use crate::harness::alone;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// What a worker says whose GPU reaches the others'.
const PEERS: &str = "small sums over ranks go through the GPUs' own memory";
/// Longer than a worker gives an abort before it takes its device for hung.
const HUNG: Duration = Duration::from_secs(13);

#[tokio::test]
async fn a_killed_rank_on_a_gpu_is_replaced_and_the_answer_goes_on() -> Result<()> {
    killed_and_replaced(Vec::new()).await
}

/// Then nobody but the coordinator tells the rank that is left, whose device waits for the dead one's numbers.
#[tokio::test]
async fn a_killed_rank_is_replaced_too_where_nccl_says_nothing_of_it() -> Result<()> {
    killed_and_replaced(["w0", "w1", "w2"].map(|worker| (worker, "FAKE_NCCL_HANG=1")).into()).await
}

async fn killed_and_replaced(failing: Vec<(&'static str, &'static str)>) -> Result<()> {
    let _alone = alone().await;
    let mut fleet = Fleet::start(Plan { gpus: true, failing, ..Plan::default() }).await?;
    let mut request = picture()?;
    // Far more than can be chosen before the rank is killed.
    let sampling = request.sampling.get_or_insert_default();
    (sampling.max_new_tokens, sampling.ignore_eos) = (Some(200), Some(true));
    request.tell_resumed = true;
    let address = fleet.doors()[0].address.clone();
    let expected = ask(&address, &request, &Lives::default()).await?.sequences[&0].tokens.clone();
    assert!(expected.starts_with(&reference_of_the_first_picture()?));
    let before = fleet.status().await?;
    for rank in before.ranks("c0") {
        assert!(fleet.said(rank)?.contains(PEERS), "{rank} sums by NCCL alone");
    }
    let worker = before.ranks("c0")[1].to_owned();
    let lives = Arc::new(Lives::default());
    let heard = lives.clone();
    let answer = tokio::spawn(async move { ask(&address, &request, &heard).await });
    while lives.tokens() == 0 && !answer.is_finished() {
        sleep(LOOK).await;
    }
    fleet.kill(&worker)?;
    let after = fleet.wait_for("group without the dead worker", |status| status.epoch("c0") > before.epoch("c0")).await?;
    assert!(!after.ranks("c0").contains(&worker.as_str()), "{after}");
    for rank in after.ranks("c0") {
        let groups = if before.ranks("c0").contains(&rank) { 2 } else { 1 };
        assert!(fleet.said(rank)?.matches(PEERS).count() >= groups, "{rank} sums by NCCL alone in the next group");
    }
    assert_eq!(answer.await??.sequences[&0].tokens, expected);
    assert!(lives.resumptions() > 0, "the answer was done before the rank was killed");
    Ok(())
}

/// Recorded passes hold the communicator that was aborted when the coordinator died: were they kept, the worker would take
/// its device for hung.
#[tokio::test]
async fn ranks_on_gpus_that_recorded_passes_outlive_their_group() -> Result<()> {
    let _alone = alone().await;
    let mut fleet = Fleet::start(Plan { gpus: true, workers: 2, ..Plan::default() }).await?;
    let (request, expected) = (picture()?, reference_of_the_first_picture()?);
    let address = fleet.doors()[0].address.clone();
    ask(&address, &request, &Lives::default()).await?;
    fleet.kill("c0")?;
    sleep(HUNG).await;
    fleet.restart("c0").await?;
    fleet.wait_for("group of the same workers", |status| status.ranks("c0").len() == 2).await?;
    assert_eq!(ask(&address, &request, &Lives::default()).await?.sequences[&0].tokens, expected);
    Ok(())
}

/// CUDA's errors of a kind leave a process with nothing it can do on its GPU: only another process can use that again.
#[tokio::test]
async fn a_worker_that_lost_its_gpu_ends_and_another_takes_its_place() -> Result<()> {
    // The first prompt's attention reads what it may not.
    lost_and_replaced("FAKE_CUDA_FAIL=attend_chunk_32:1:700").await
}

#[tokio::test]
async fn a_worker_whose_gpu_vanished_ends_too() -> Result<()> {
    lost_and_replaced("FAKE_CUDA_VANISH=100").await
}

#[tokio::test]
async fn a_worker_whose_gpu_was_lost_in_a_sum_over_ranks_ends_too() -> Result<()> {
    lost_and_replaced("FAKE_CUDA_FAIL=sum_over_ranks_w:5:700").await
}

#[tokio::test]
async fn a_worker_whose_gpu_was_lost_in_what_nccl_does_ends_too() -> Result<()> {
    // Three tell how the GPUs reach each other.
    lost_and_replaced("FAKE_CUDA_FAIL=ncclAllGather:4:700").await
}

async fn lost_and_replaced(fails: &'static str) -> Result<()> {
    let _alone = alone().await;
    let failing = vec![("w1", fails)];
    let mut fleet = Fleet::start(Plan { gpus: true, workers: 2, later: 1, failing, ..Plan::default() }).await?;
    let (request, expected) = (picture()?, reference_of_the_first_picture()?);
    let address = fleet.doors()[0].address.clone();
    let answer = tokio::spawn(async move { ask(&address, &request, &Lives::default()).await });
    assert_eq!(fleet.end("w1").await?, Some(75));
    fleet.restart("w2").await?;
    assert_eq!(answer.await??.sequences[&0].tokens, expected);
    Ok(())
}
