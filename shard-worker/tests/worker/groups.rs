//! Groups end, and new ones begin with the weights at hand.

use tessera_proto::internal::{LoadRequest, step_failure::Kind};
use tessera_types::{Epoch, Grid, ImageEncode, ImageKey, StepId, StepPlan};
use tonic::Code;

use crate::{
    golden::{Golden, two_workers_are_golden},
    harness::{Group, Worker, until},
};

#[tokio::test]
async fn an_old_epoch_is_refused_everywhere() {
    let (worker, group, golden) = (Worker::start("a").await, Group::shm(1), Golden::read());
    worker.load(group.request(5, 0)).await.unwrap();
    for epoch in [5, 4] {
        let error = worker.load(group.request(epoch, 0)).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message().contains(&format!("epoch {epoch} is over")), "{error}");
    }
    let mut stale = worker.run().await;
    stale.send(golden.plan(4, 1)).await;
    let failure = stale.failure().await;
    assert_eq!(failure.kind(), Kind::Epoch);
    assert!(failure.message.contains("epoch 4") && failure.message.contains("epoch 5"), "{}", failure.message);
    worker.release(4).await;
    drop(stale);
    let mut run = worker.run().await;
    run.send(golden.plan(5, 1)).await;
    assert_eq!(run.token().await, golden.greedy[0], "nothing that the old epoch did has touched the new one");
}

#[tokio::test]
async fn a_new_epoch_keeps_the_weights_and_forgets_the_sequences() {
    let (worker, group, golden) = (Worker::start("a").await, Group::shm(1), Golden::read());
    let loaded = worker.load(group.request(5, 0)).await.unwrap();
    assert_eq!(worker.status().await.weight_bytes, loaded.weight_bytes);
    let mut run = worker.run().await;
    run.send(golden.plan(5, 1)).await;
    run.token().await;
    let again = worker.load(group.request(6, 0)).await.unwrap();
    assert_eq!((again.bytes_read, again.kv_blocks), (0, loaded.kv_blocks));
    let mut run = worker.run().await;
    run.send(golden.plan(6, 1)).await;
    assert_eq!(run.token().await, golden.greedy[0], "the same sequence can start again");
}

#[tokio::test]
async fn a_new_epoch_ends_the_forming_of_the_one_before() {
    let worker = Worker::start("a").await;
    let alone = Group::shm(2).request(1, 0);
    let waiting = worker.load(alone);
    let next = async {
        until("the load has begun", async || worker.status().await.rank == Some(0)).await;
        worker.load(Group::shm(1).request(2, 0)).await
    };
    let (waiting, next) = tokio::join!(waiting, next);
    assert_eq!(waiting.unwrap_err().code(), Code::Aborted);
    assert!(next.is_ok());
}

#[tokio::test]
async fn a_release_ends_the_step_in_progress_and_the_group() {
    let (a, b, group, golden) = (Worker::start("a").await, Worker::start("b").await, Group::shm(2), Golden::read());
    group.load([&a, &b], 1).await;
    let mut run = a.run().await;
    // Rank 1 never gets the plan, so rank 0 waits in its first collective.
    run.send(golden.plan(1, 1)).await;
    a.release(1).await;
    assert_eq!(a.status().await.rank, None);
    let first = run.failure().await;
    assert!(matches!(first.kind(), Kind::Collective | Kind::Epoch), "{first:?}");
    run.send(golden.plan(1, 2)).await;
    assert_eq!(run.failure().await.kind(), Kind::Epoch, "the group is over");
    let mut other = b.run().await;
    other.send(golden.plan(1, 1)).await;
    let lost = other.failure().await;
    assert_eq!(lost.kind(), Kind::Collective);
    assert!(lost.message.contains("rank 0"), "{}", lost.message);
}

#[tokio::test]
async fn a_coordinator_that_goes_away_frees_the_workers_and_leaves_the_weights() {
    let (a, b, group, golden) = (Worker::start("a").await, Worker::start("b").await, Group::shm(2), Golden::read());
    group.load([&a, &b], 1).await;
    let (mut run, other) = tokio::join!(a.run(), b.run());
    run.send(golden.plan(1, 1)).await;
    other.send(golden.plan(1, 1)).await;
    run.token().await;
    // Rank 1 never gets this plan, so rank 0 waits for it when its coordinator goes.
    run.send(golden.plan(1, 2)).await;
    drop((run, other));
    a.until_free().await;
    b.until_free().await;
    let again = group.load([&a, &b], 2).await;
    assert_eq!(again.map(|loaded| loaded.bytes_read), [0, 0]);
    two_workers_are_golden([&a, &b], 2).await;
}

#[tokio::test]
async fn a_coordinator_that_ends_its_plans_ends_the_group() {
    let (worker, group, golden) = (Worker::start("a").await, Group::shm(1), Golden::read());
    worker.load(group.request(1, 0)).await.unwrap();
    let mut run = worker.run().await;
    run.send(golden.plan(1, 1)).await;
    run.token().await;
    let (closed, _) = tokio::sync::mpsc::channel(1);
    run.plans = closed;
    assert_eq!(run.result().await.unwrap_err().code(), Code::Cancelled, "the worker ends its side too");
    worker.until_free().await;
}

#[tokio::test]
async fn a_worker_that_stops_is_missed_by_its_group() {
    for group in [Group::shm(2), Group::tcp(2)] {
        let (a, b, golden) = (Worker::start("a").await, Worker::start("b").await, Golden::read());
        group.load([&a, &b], 1).await;
        let mut run = a.run().await;
        run.send(golden.plan(1, 1)).await;
        b.stop.cancel();
        let failure = run.failure().await;
        assert_eq!(failure.kind(), Kind::Collective);
        assert!(failure.message.contains("rank 1"), "{}", failure.message);
        b.ended.await.unwrap().unwrap();
        let spare = Worker::start("c").await;
        let [kept, read] = group.load([&a, &spare], 2).await;
        assert!(kept.bytes_read == 0 && read.bytes_read > 0);
        two_workers_are_golden([&a, &spare], 2).await;
    }
}

#[tokio::test]
async fn a_worker_that_stops_while_another_encodes_by_itself_is_behind_and_is_missed() {
    for group in [Group::shm(2), Group::tcp(2)] {
        let (a, b) = (Worker::start("a").await, Worker::start("b").await);
        let request = |rank| LoadRequest { vision_parallel: "image".into(), ..group.request(1, rank) };
        let (first, second) = tokio::join!(a.load(request(0)), b.load(request(1)));
        first.and(second).unwrap();
        let (mut run, mut other) = tokio::join!(a.run(), b.run());
        run.send(picture(1).into()).await;
        other.send(picture(1).into()).await;
        assert_eq!((run.result().await.unwrap().failure, other.result().await.unwrap().failure), (None, None));
        // Rank 0 has the image: it meets the other rank at each of seven sums, then hands the features round.
        assert_eq!((a.status().await.progress, b.status().await.progress), (8, 8));
        run.send(picture(2).into()).await;
        until("the image is begun", async || a.status().await.progress > 8).await;
        assert_eq!((a.status().await.progress, b.status().await.progress), (9, 8), "rank 1 is behind");
        b.stop.cancel();
        let failure = run.failure().await;
        assert_eq!(failure.kind(), Kind::Collective);
        assert!(failure.message.contains("rank 1"), "{}", failure.message);
    }
}

/// A step that encodes the largest image the model takes.
fn picture(step: u64) -> StepPlan {
    let grid = Grid { rows: 16, cols: 16 };
    let pixels = vec![0; 4 * 3 * 256 * grid.patches()].into();
    StepPlan {
        epoch: Epoch(1),
        step: StepId(step),
        end: vec![],
        forget_images: vec![],
        start: vec![],
        encode: vec![ImageEncode { key: ImageKey([step as u8; 32]), grid, pixels }],
        chunks: vec![],
    }
}
