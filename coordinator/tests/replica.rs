//! A replica over real gRPC: what routers see when all goes well, and when workers do not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fake;
mod losses;

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use fake::{
    replica::{BOUND, Heard, Replica, config, prompt, request},
    tokens::expected,
    worker::{BLOCKS, Control, Fault},
};
use tessera_coordinator::{GroupState, RunError};
use tessera_proto::{
    internal::{self as wire, collective::Transport},
    retry_delay, violations,
};
use tokio::time::timeout;
use tonic::{Code, Status};

#[tokio::test(flavor = "multi_thread")]
async fn streams_complete_with_every_token_and_their_timings() {
    let mut replica = Replica::ready(config(2), 2).await;
    let mut streams = Vec::new();
    for n in 0..6 {
        let stream = replica.generate(request(&format!("r{n}"), 10 + 20 * n, 30)).await.unwrap();
        streams.push((n, tokio::spawn(Heard::all(stream))));
    }
    for (n, stream) in streams {
        let heard = stream.await.unwrap();
        assert_eq!(heard.tokens, expected(&prompt(10 + 20 * n), 5, 30));
        assert_eq!(heard.finished.unwrap().reason(), wire::finished::Reason::Length);
        assert!(heard.timings.unwrap().decode_us > 0);
    }
    replica.until(|state| state.condition.kv_blocks_used == 0 && state.condition.running == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_tells_limits_and_the_least_ranks_blocks() {
    let mut replica = Replica::ready(config(2), 2).await;
    let info = replica.client.get_info(wire::GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.kv_blocks, info.max_context, info.tp), (BLOCKS, 512, 2));
    assert!(info.ready && info.epoch > 0);
    let spec: tessera_types::ModelSpec = serde_json::from_str(&info.model_spec).unwrap();
    assert_eq!(spec, fake::worker::spec());
    let members = replica.registry.members().await.unwrap().1;
    assert_eq!(members.claims.len(), 2);
    assert_eq!(members.replicas["replica"].model, "model");
}

/// Tokens of the largest step of a replica whose ranks advise so many and have room for so many, for a prompt of 400.
async fn largest_step(asked: Option<usize>, advice: [u32; 2], room: [u32; 2]) -> u32 {
    let config = tessera_coordinator::Config { step_tokens: asked, ..config(2) };
    let next = AtomicUsize::new(0);
    let mut replica = Replica::start(config, 2, |control| {
        let worker = next.fetch_add(1, SeqCst);
        (control.advice, control.room) = (advice[worker], room[worker]);
    })
    .await;
    replica.until(|state| state.condition.ready).await;
    let heard = Heard::all(replica.generate(request("r", 400, 3)).await.unwrap()).await;
    assert_eq!(heard.tokens, expected(&prompt(400), 5, 3));
    replica.control(0).largest_step
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_has_as_many_tokens_as_all_ranks_advise_unless_somebody_says_otherwise() {
    assert_eq!(largest_step(None, [200, 150], [0, 0]).await, 150);
    assert_eq!(largest_step(None, [200, 0], [0, 0]).await, 400, "512 where a rank does not say");
    assert_eq!(largest_step(Some(60), [200, 150], [0, 0]).await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_has_no_more_tokens_than_every_rank_has_room_for_whatever_is_asked_for() {
    assert_eq!(largest_step(Some(300), [64, 64], [130, 110]).await, 110);
    assert_eq!(largest_step(Some(300), [64, 64], [0, 170]).await, 170, "a rank that knows no bound sets none");
    assert_eq!(largest_step(Some(90), [64, 64], [130, 110]).await, 90);
}

/// A request of 40 tokens through a fault in step 12 of one worker, with a spare worker at hand.
async fn survives(worker: usize, fault: Fault) -> Replica {
    let mut config = config(2);
    if fault == Fault::Hang {
        config.timeouts.stall = Duration::from_secs(1);
    }
    let mut replica = Replica::ready(config, 3).await;
    let first = replica.until(|state| state.condition.ready).await.epoch;
    replica.control(worker).fault = Some((12, fault));
    let one = tokio::spawn(Heard::all(replica.generate(request("one", 10, 40)).await.unwrap()));
    let two = tokio::spawn(Heard::all(replica.generate(request("two", 50, 40)).await.unwrap()));
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    assert_eq!(one.tokens, expected(&prompt(10), 5, 40), "{:?}", one.error);
    assert_eq!(two.tokens, expected(&prompt(50), 5, 40), "{:?}", two.error);
    let now = replica.until(|state| state.condition.ready).await;
    assert!(now.epoch > first, "a new group has a new epoch");
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_replays_without_a_token_lost() {
    let replica = survives(0, Fault::Fail).await;
    assert_eq!(replica.control(2).loads.len(), 1, "the spare takes the place of the rank that failed");
    assert_eq!(replica.control(1).loads.len(), 2, "the survivor stays");
    let survivor = replica.control(1);
    assert_eq!(survivor.released, survivor.loads[..1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_replays_without_a_token_lost() {
    survives(1, Fault::Die).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_rank_is_noticed_by_the_watchdog_and_replaced() {
    let replica = survives(1, Fault::Hang).await;
    assert_eq!(replica.control(2).loads.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_no_plan_replays_too() {
    survives(0, Fault::Confuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_worker_is_replaced_even_while_nothing_runs() {
    let mut replica = Replica::ready(config(2), 3).await;
    let first = replica.until(|state| state.condition.ready).await.epoch;
    replica.kill(1);
    replica.until(|state| state.condition.ready && state.epoch > first).await;
    assert_eq!([0, 1, 2].map(|n| replica.control(n).loads.len()), [2, 1, 1]);
    let heard = Heard::all(replica.generate(request("one", 4, 9)).await.unwrap()).await;
    assert_eq!(heard.tokens, expected(&prompt(4), 5, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_without_a_spare_waits_for_workers_and_then_sends_routers_elsewhere() {
    let mut config = config(2);
    config.timeouts.recovery = Duration::from_millis(300);
    let mut replica = Replica::ready(config, 2).await;
    replica.control(0).step_time = Duration::from_millis(5);
    let stream = replica.generate(request("one", 10, 400)).await.unwrap();
    replica.control(1).refuse_load = Some(Status::unavailable("not again"));
    replica.control(1).fault = Some((20, Fault::Die));
    let heard = Heard::all(stream).await;
    let error = heard.error.unwrap();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(heard.tokens, expected(&prompt(10), 5, heard.tokens.len()));
    let refusal = replica.generate(request("two", 10, 4)).await.unwrap_err();
    assert!(refusal.code() == Code::Unavailable && retry_delay(&refusal).is_some());
    replica.control(1).refuse_load = None;
    replica.until(|state| state.condition.ready).await;
    let heard = Heard::all(replica.generate(request("three", 10, 4)).await.unwrap()).await;
    assert_eq!(heard.tokens.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_blocks_and_its_place_on_the_ranks() {
    let mut replica = Replica::ready(config(2), 2).await;
    replica.control(0).step_time = Duration::from_millis(5);
    let mut stream = replica.generate(request("one", 100, 400)).await.unwrap();
    let mut heard = Heard::default();
    while heard.tokens.is_empty() {
        assert!(heard.next(&mut stream).await);
    }
    assert!(replica.state.borrow().condition.kv_blocks_used >= 7);
    drop(stream);
    replica.until(|state| state.condition.kv_blocks_used == 0 && state.condition.running == 0).await;
    Heard::all(replica.generate(request("two", 4, 4)).await.unwrap()).await;
    assert_eq!(replica.control(1).held, 1, "only the second is known to the ranks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_nobody() {
    let mut replica = Replica::ready(config(1), 1).await;
    let slow = replica.generate(request("slow", 10, 400)).await.unwrap();
    let heard = Heard::all(replica.generate(request("fast", 10, 100)).await.unwrap()).await;
    assert_eq!(heard.tokens.len(), 100);
    replica.until(|state| state.condition.running == 0).await;
    assert_eq!(Heard::all(slow).await.tokens, expected(&prompt(10), 5, 400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_sequence_ends_and_its_siblings_go_on() {
    let mut replica = Replica::ready(config(1), 1).await;
    replica.control(0).step_time = Duration::from_millis(5);
    let mut pair = request("pair", 10, 60);
    pair.sequences.push(pair.sequences[0].clone());
    let mut stream = replica.generate(pair).await.unwrap();
    let stop = wire::StopSequenceRequest { request_id: "pair".into(), index: 1 };
    replica.client.stop_sequence(stop).await.unwrap();
    let mut ends = Vec::new();
    let mut tokens = Vec::new();
    while let Some(message) = timeout(BOUND, stream.message()).await.unwrap().unwrap() {
        match message.event.unwrap() {
            wire::generate_event::Event::Token(token) if token.index == 0 => tokens.push(token.token),
            wire::generate_event::Event::Finished(finished) => ends.push((finished.index, finished.reason())),
            _ => {}
        }
    }
    use wire::finished::Reason;
    assert_eq!(ends, [(1, Reason::Stopped), (0, Reason::Length)]);
    assert_eq!(tokens, expected(&prompt(10), 5, 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_from_a_lost_replica_goes_on_where_it_was() {
    let mut replica = Replica::ready(config(2), 2).await;
    let mut moved = request("moved", 10, 30);
    moved.sequences[0].generated = expected(&prompt(10), 5, 12);
    let mut stream = replica.generate(moved).await.unwrap();
    let mut heard = Heard { tokens: expected(&prompt(10), 5, 12), ..Default::default() };
    while heard.next(&mut stream).await {}
    assert_eq!(heard.tokens, expected(&prompt(10), 5, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_with_a_retry_time() {
    let mut config = config(1);
    (config.queue, config.max_sequences) = (1, 1);
    let mut replica = Replica::ready(config, 1).await;
    replica.control(0).step_time = Duration::from_millis(20);
    let _running = replica.generate(request("one", 10, 100)).await.unwrap();
    replica.until(|state| state.condition.running == 1).await;
    let _waiting = replica.generate(request("two", 10, 100)).await.unwrap();
    let refusal = replica.generate(request("three", 10, 100)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(retry_delay(&refusal).unwrap() >= Duration::from_millis(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_request_that_waits() {
    let mut config = config(1);
    config.max_sequences = 1;
    let mut replica = Replica::ready(config, 1).await;
    replica.control(0).step_time = Duration::from_millis(20);
    let _running = replica.generate(request("one", 10, 400)).await.unwrap();
    let late = wire::GenerateRequest { deadline_us: 150_000, ..request("two", 10, 10) };
    let heard = Heard::all(replica.generate(late).await.unwrap()).await;
    assert_eq!((heard.error.unwrap().code(), heard.tokens.len()), (Code::DeadlineExceeded, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rank_could_run_is_refused_by_field() {
    let mut replica = Replica::ready(config(1), 1).await;
    let mut field = async |request| {
        let refusal = replica.generate(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
        violations(&refusal)[0].0.clone()
    };
    assert_eq!(field(request("long", 512, 4)).await, "prompt");
    assert_eq!(field(wire::GenerateRequest { prompt: vec![1000], ..request("foreign", 4, 4) }).await, "prompt");
    assert_eq!(field(wire::GenerateRequest { prompt: vec![], ..request("empty", 4, 4) }).await, "prompt");
    let mut hot = request("hot", 4, 4);
    hot.sequences[0].sampling.as_mut().unwrap().temperature = f32::NAN;
    assert_eq!(field(hot).await, "temperature");
    let grid = Some(wire::Grid { rows: 1, cols: 1 });
    let picture = wire::ImagePixels { key: vec![0; 32].into(), grid, pixels: vec![0; 3072].into() };
    let blind = wire::GenerateRequest { pixels: vec![picture], ..request("blind", 4, 4) };
    assert_eq!(field(blind).await, "image[0]", "the model has no vision");
    let heard = Heard::all(replica.generate(request("good", 4, 4)).await.unwrap()).await;
    assert_eq!(heard.tokens.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_runs_once() {
    let mut replica = Replica::ready(config(1), 1).await;
    replica.control(0).step_time = Duration::from_millis(5);
    let _first = replica.generate(request("same", 10, 400)).await.unwrap();
    assert_eq!(replica.generate(request("same", 10, 400)).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_ends_the_coordinator_with_every_ranks_reason() {
    let refusal = Status::invalid_argument("params.json: dim is missing");
    let replica = Replica::start(config(2), 2, |control| control.refuse_load = Some(refusal.clone())).await;
    let error = timeout(BOUND, replica.running).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(&error, RunError::Model(_)), "{error}");
    assert!(error.to_string().contains("all 2 ranks: params.json: dim is missing"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_older_than_what_a_worker_obeys_drives_nothing() {
    let mut replica = Replica::start(config(2), 2, |control| control.seen = 1 << 60).await;
    let problem = |state: &GroupState| matches!(state, GroupState::Lost { problem, .. } if problem.contains("not the newest"));
    timeout(BOUND, replica.group.wait_for(problem)).await.unwrap().unwrap();
    assert!(replica.control(0).loads.is_empty() && replica.control(1).loads.is_empty());
    replica.control(0).seen = 0;
    replica.control(1).seen = 0;
    replica.until(|state| state.condition.ready).await;
    let heard = Heard::all(replica.generate(request("one", 4, 9)).await.unwrap()).await;
    assert_eq!(heard.tokens, expected(&prompt(4), 5, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_on_gpus_meet_by_nccl_under_an_id_of_their_epoch() {
    let mut replica = Replica::start_on("cuda", config(2), 2, |_| {}).await;
    let epoch = replica.until(|state| state.condition.ready).await.epoch;
    for worker in 0..2 {
        let met = replica.control(worker).collective.clone().unwrap();
        assert_eq!((met.transport(), met.addresses.len()), (Transport::Nccl, 0));
        assert_eq!(met.nccl_id, epoch.0.to_le_bytes().to_vec(), "made anew for this epoch");
        assert!(met.deadline_ms > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_is_alone_and_ranks_on_cpus_need_no_nccl() {
    let unable = |control: &mut Control| control.refuse_id = Some(Status::failed_precondition("no NCCL here"));
    for (device, tp) in [("cuda", 1), ("cpu", 2), ("sim:h100", 2)] {
        let mut replica = Replica::start_on(device, config(tp), usize::from(tp), unable).await;
        replica.until(|state| state.condition.ready).await;
        let met = replica.control(0).collective.clone().unwrap();
        assert_eq!((met.transport(), met.nccl_id.len()), (Transport::Shm, 0), "{device}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_make_an_id_is_not_rank_0_while_others_can() {
    let first = AtomicBool::new(true);
    let mut replica = Replica::start_on("cuda", config(2), 3, |control| {
        control.refuse_id = first.swap(false, SeqCst).then(|| Status::failed_precondition("no NCCL here"));
    })
    .await;
    replica.until(|state| state.condition.ready).await;
    assert_eq!([0, 1, 2].map(|n| replica.control(n).loads.len()), [0, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_nobody_can_make_an_id_for_is_tried_again_and_the_reason_is_told() {
    let unable = |control: &mut Control| control.refuse_id = Some(Status::failed_precondition("no NCCL here"));
    let mut replica = Replica::start_on("cuda", config(2), 2, unable).await;
    let told = |group: &GroupState| matches!(group, GroupState::Lost { problem, .. } if problem.contains("no NCCL here"));
    timeout(BOUND, replica.group.wait_for(told)).await.expect("in time").unwrap();
    (0..2).for_each(|n| replica.control(n).refuse_id = None);
    replica.until(|state| state.condition.ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_without_workers_waits_and_can_be_stopped() {
    let mut replica = Replica::start(config(2), 1, |_| {}).await;
    let waiting = GroupState::Waiting { free: 1, needed: 2 };
    timeout(BOUND, replica.group.wait_for(|state| *state == waiting)).await.unwrap().unwrap();
    assert_eq!(replica.generate(request("one", 4, 4)).await.unwrap_err().code(), Code::Unavailable);
    replica.stop.cancel();
    timeout(BOUND, replica.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_what_runs_end_and_leaves_no_trace() {
    let mut replica = Replica::ready(config(2), 2).await;
    replica.control(0).step_time = Duration::from_millis(5);
    let stream = replica.generate(request("one", 10, 60)).await.unwrap();
    replica.stop.cancel();
    replica.until(|state| state.condition.draining && !state.condition.ready).await;
    let refusal = replica.generate(request("two", 10, 4)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable);
    assert_eq!(Heard::all(stream).await.tokens, expected(&prompt(10), 5, 60));
    timeout(BOUND, replica.running).await.unwrap().unwrap().unwrap();
    let members = replica.registry.members().await.unwrap().1;
    assert!(members.claims.is_empty() && members.replicas.is_empty());
    assert_eq!(*replica.group.borrow(), GroupState::Stopped);
}
