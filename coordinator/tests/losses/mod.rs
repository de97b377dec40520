//! What is told of a loss, and what follows from it beside a replay.

mod away;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use tessera_coordinator::GroupState;
use tessera_proto::internal::{self as wire, collective::Transport, generate_event::Event};
use tessera_registry::Registry;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::fake::{
    replica::{BOUND, Heard, Replica, config, prompt, request},
    tokens::expected,
    worker::Fault,
};
use away::Leaving;

/// The weights that a request is accepted with.
async fn accepted(replica: &mut Replica, id: &str) -> (wire::Accepted, tonic::Streaming<wire::GenerateEvent>) {
    let mut stream = replica.generate(request(id, 10, 400)).await.unwrap();
    let first = timeout(BOUND, stream.message()).await.expect("in time").unwrap().unwrap();
    let Some(Event::Accepted(accepted)) = first.event else { panic!("{first:?}") };
    (accepted, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_on_other_weights_is_not_replayed_on_new_ones() {
    let mut replica = Replica::start(config(2), 3, |control| control.fingerprint = "old".into()).await;
    let first = replica.until(|state| state.condition.ready).await.epoch;
    replica.control(0).step_time = Duration::from_millis(5);
    let (with, stream) = accepted(&mut replica, "one").await;
    assert_eq!((with.model_fingerprint.as_str(), with.weight_format.as_str()), ("old", "bf16"));
    (0..3).for_each(|n| replica.control(n).fingerprint = "new".into());
    replica.kill(1);
    let heard = Heard::all(stream).await;
    let error = heard.error.unwrap();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("the weights have changed"), "{error}");
    assert_eq!(heard.tokens, expected(&prompt(10), 5, heard.tokens.len()));
    replica.until(|state| state.condition.ready && state.epoch > first).await;
    let (with, stream) = accepted(&mut replica, "two").await;
    assert_eq!(with.model_fingerprint, "new");
    assert_eq!(Heard::all(stream).await.tokens, expected(&prompt(10), 5, 400));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_to_blame_is_told_also_where_another_rank_spoke_first() {
    let mut replica = Replica::ready(config(2), 3).await;
    let first = replica.until(|state| state.condition.ready).await.epoch;
    // Rank 0 misses rank 1, whose stream breaks a moment later.
    replica.control(0).fault = Some((12, Fault::Complain));
    replica.control(1).fault = Some((12, Fault::Die));
    replica.control(1).step_time = Duration::from_millis(30);
    let heard = Heard::all(replica.generate(request("one", 10, 40)).await.unwrap()).await;
    assert_eq!(heard.tokens, expected(&prompt(10), 5, 40), "{:?}", heard.error);
    let state = replica.until(|state| state.condition.ready && state.epoch > first).await;
    assert!(state.last_loss.contains("lost rank 1 (worker worker-1)"), "{}", state.last_loss);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_a_rank_and_finds_no_other_says_what_it_lost_until_there_is_one() {
    let mut replica = Replica::ready(config(2), 2).await;
    replica.kill(1);
    replica.forget(1).await;
    let told = "no new group: 1 of 2 workers are free";
    let state = replica.until(|state| state.problem.contains(told)).await;
    assert!(state.problem.contains("lost rank 1 (worker worker-1)"), "{}", state.problem);
    assert_eq!(state.lost, [tessera_types::Rank(1)]);
    let group = replica.group.borrow().clone();
    assert!(matches!(&group, GroupState::Lost { problem, .. } if problem.contains(told)), "{group:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_while_the_registry_is_away_is_kept_until_it_is_back() {
    let (store, away) = Leaving::new();
    let mut replica = Replica::start_in(Registry::new(store), "cpu", config(2), 3, |_| {}).await;
    let first = replica.until(|state| state.condition.ready).await;
    assert_eq!(first.workers, ["worker-0", "worker-1"]);
    replica.retire(1).await;
    away.store(true, SeqCst);
    replica.until(|state| state.registry_away.is_some()).await;
    replica.control(1).draining = true;
    // It is asked every half second how it is.
    sleep(Duration::from_secs(2)).await;
    let state = replica.state.borrow().clone();
    assert!(state.condition.ready && state.epoch == first.epoch && state.registry_away.is_some(), "{state:?}");
    away.store(false, SeqCst);
    let state = replica.until(|state| state.condition.ready && state.epoch > first.epoch).await;
    assert_eq!(state.workers, ["worker-0", "worker-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_named_by_hand_is_on_the_device_that_it_says() {
    let mut replica = Replica::start(config(2), 2, |control| control.device = "cuda:0 (a GPU)".into()).await;
    replica.until(|state| state.condition.ready).await;
    assert_eq!(replica.control(0).collective.clone().unwrap().transport(), Transport::Nccl);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_group_that_cannot_load_the_model_is_not_the_end() {
    let mut config = config(2);
    config.elastic = true;
    let refusal = Status::invalid_argument("a cache of 0 bytes has no room");
    let mut replica = Replica::start(config, 1, |control| control.refuse_load = Some(refusal.clone())).await;
    let told =
        |state: &GroupState| matches!(state, GroupState::Lost { problem, .. } if problem.contains("a group of 1 is too small"));
    timeout(BOUND, replica.group.wait_for(told)).await.expect("in time").unwrap();
    assert!(!replica.running.is_finished());
}
