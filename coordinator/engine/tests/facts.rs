//! What the engine promises, one situation each.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod simulation;

use std::time::Duration;

use bytes::Bytes;
use simulation::Cluster;
use simulation::reference::generate;
use tessera_engine::{
    Admission, Engine, EngineConfig, Event, FinishReason, NewRequest, NewSequence, OutputError, Refusal, RequestTimings,
};
use tessera_types::{BLOCK_TOKENS, Epoch, Grid, ImageEncode, ImageKey, PlacedImage, SamplingParams, StepId, StepOutput, TokenId};

fn config() -> EngineConfig {
    EngineConfig {
        kv_blocks: 64,
        max_context: 512,
        max_batch_sequences: 8,
        step_tokens: 32,
        step_patches: 8,
        encoder_tokens: 64,
        queue_len: 4,
        pipeline_depth: 2,
    }
}

fn sampling(seed: u64, max_new: u32) -> SamplingParams {
    SamplingParams { seed, max_new_tokens: max_new, stop_tokens: Vec::new(), ..Default::default() }
}

fn text(tokens: usize, max_new: u32) -> NewRequest {
    NewRequest {
        prompt: (0..tokens as u32).map(TokenId).collect(),
        images: Vec::new(),
        pixels: Vec::new(),
        sequences: vec![NewSequence { sampling: sampling(7, max_new), generated: Vec::new() }],
        priority: 0,
        deadline: None,
    }
}

/// A prompt of `count` different pictures of 2 by 4 patches, a text token before each and one behind the last.
fn pictures(count: u8) -> NewRequest {
    let grid = Grid { rows: 2, cols: 4 };
    let stride = grid.tokens() as u32 + 1;
    let image = |n: u8| PlacedImage { key: ImageKey([n; 32]), at: u32::from(n) * stride + 1, grid };
    let images: Vec<_> = (0..count).map(image).collect();
    let pixels = |image: &PlacedImage| ImageEncode { key: image.key, grid, pixels: Bytes::new() };
    NewRequest { pixels: images.iter().map(pixels).collect(), images, ..text(usize::from(count) * stride as usize + 1, 4) }
}

fn submit(cluster: &mut Cluster, request: NewRequest) -> Admission {
    let admission = cluster.engine.submit(cluster.now, request.clone()).unwrap();
    cluster.client.follow(&request, &admission);
    admission
}

fn tokens(cluster: &Cluster, admission: &Admission) -> usize {
    cluster.client.streams[&admission.sequences[0]].tokens.len()
}

#[test]
fn a_full_queue_refuses_with_a_retry_time() {
    let mut cluster = Cluster::new(config());
    let places: Vec<_> = (0..4).map(|_| submit(&mut cluster, text(4, 4)).queue_position).collect();
    assert_eq!(places, [0, 1, 2, 3]);
    let refusal = cluster.engine.submit(cluster.now, text(4, 4)).unwrap_err();
    assert!(matches!(refusal, Refusal::QueueFull { waiting: 4, retry_after } if retry_after >= Duration::from_millis(100)));
    cluster.plan();
    assert!(cluster.engine.submit(cluster.now, text(4, 4)).is_ok(), "the queue has room again");
}

#[test]
fn what_can_never_run_is_refused_by_name() {
    let mut engine = Engine::new(config()).unwrap();
    let mut refusal = |request| engine.submit(Duration::ZERO, request).unwrap_err();
    assert_eq!(refusal(text(512, 4)), Refusal::PromptTooLong { tokens: 512, context: 512 });
    let mut large = pictures(1);
    large.images[0].grid = Grid { rows: 5, cols: 13 };
    large.pixels[0].grid = large.images[0].grid;
    large.prompt = (0..100).map(TokenId).collect();
    assert_eq!(refusal(large), Refusal::ImageTooLarge { index: 0, patches: 65, limit: 64 });
    let mut blind = pictures(2);
    blind.pixels.pop();
    assert!(matches!(refusal(blind), Refusal::Malformed { field, .. } if field == "images[1]"));
    let mut short = pictures(2);
    short.prompt = short.prompt[..20].into();
    assert!(matches!(refusal(short), Refusal::Malformed { field, .. } if field == "images[1]"));
    assert!(matches!(refusal(text(0, 4)), Refusal::Malformed { field, .. } if field == "prompt"));
    let late = NewRequest { deadline: Some(Duration::ZERO), ..text(4, 4) };
    assert_eq!(refusal(late), Refusal::DeadlineExceeded);
}

#[test]
fn decode_tokens_go_before_a_long_prompt() {
    let mut cluster = Cluster::new(config());
    let first = submit(&mut cluster, text(4, 20));
    cluster.plan();
    let second = submit(&mut cluster, text(100, 4));
    let plan = cluster.plan().unwrap();
    let chunks: Vec<_> = plan.chunks.iter().map(|chunk| (chunk.sequence, chunk.len, chunk.sample)).collect();
    assert_eq!(chunks, [(first.sequences[0], 1, true), (second.sequences[0], 31, false)]);
}

#[test]
fn a_length_is_known_ahead_and_no_token_beyond_it_is_planned() {
    let mut cluster = Cluster::new(config());
    submit(&mut cluster, text(4, 2));
    assert!(cluster.plan().is_some() && cluster.plan().is_some());
    cluster.deliver();
    assert!(cluster.plan().is_none(), "both tokens are under way or told");
}

#[test]
fn a_stop_found_late_drops_the_token_under_way_and_frees_blocks_at_once() {
    let mut cluster = Cluster::new(config());
    let mut request = text(4, 20);
    let run = generate(&request.prompt, &[], &sampling(7, 20), 20);
    let fresh = (0..20).find(|&n| !run[..n].contains(&run[n]) && n > 0).unwrap();
    request.sequences[0].sampling.stop_tokens = vec![run[fresh]];
    let stream = submit(&mut cluster, request);
    while cluster.engine.stats().running > 0 || cluster.engine.stats().waiting > 0 {
        while cluster.plan().is_some() {}
        cluster.deliver();
    }
    assert_eq!(cluster.client.streams[&stream.sequences[0]].end, Some(FinishReason::Stop(run[fresh])));
    let stats = cluster.engine.stats();
    assert_eq!((stats.blocks_used, stats.in_flight), (0, 1));
    cluster.deliver();
    assert_eq!(cluster.client.streams[&stream.sequences[0]].tokens, run[..=fresh]);
    submit(&mut cluster, text(4, 1));
    assert_eq!(cluster.plan().unwrap().end, stream.sequences);
}

#[test]
fn a_cancelled_sequence_frees_its_blocks_at_once() {
    let mut cluster = Cluster::new(config());
    let admission = submit(&mut cluster, text(40, 20));
    cluster.plan();
    assert_eq!(cluster.engine.stats().blocks_used, 3);
    cluster.engine.cancel(cluster.now, admission.sequences[0]);
    cluster.engine.cancel(cluster.now, admission.sequences[0]);
    assert_eq!(cluster.engine.stats().blocks_used, 0);
    cluster.drain();
    assert_eq!(cluster.client.streams[&admission.sequences[0]].end, Some(FinishReason::Cancelled));
}

#[test]
fn images_are_spread_over_steps_and_encoded_once_for_all_sequences() {
    let mut cluster = Cluster::new(EngineConfig { step_tokens: 64, ..config() });
    let mut request = pictures(3);
    request.sequences = (0..3).map(|n| NewSequence { sampling: sampling(n, 4), generated: Vec::new() }).collect();
    submit(&mut cluster, request);
    let encodes: Vec<_> = std::iter::from_fn(|| {
        let plan = cluster.plan();
        cluster.deliver();
        plan.map(|plan| plan.encode.len())
    })
    .collect();
    assert_eq!(encodes[..3], [1, 1, 1]);
    assert_eq!(encodes.iter().sum::<usize>(), 3);
    cluster.drain();
}

#[test]
fn another_bound_on_steps_holds_from_the_next_plan_on() {
    let mut engine = Engine::new(config()).unwrap();
    engine.submit(Duration::ZERO, text(100, 4)).unwrap();
    let mut tokens = |bound| {
        engine.bound_steps(bound);
        engine.schedule(Duration::ZERO).unwrap().chunks.iter().map(|chunk| chunk.len).sum::<u32>()
    };
    assert_eq!([tokens(32), tokens(7)], [32, 7]);
}

#[test]
fn a_picture_shown_again_is_not_encoded_again() {
    let mut cluster = Cluster::new(config());
    submit(&mut cluster, pictures(2));
    cluster.drain();
    submit(&mut cluster, pictures(2));
    cluster.drain();
    assert_eq!(cluster.worker.encodes, 2);
}

#[test]
fn the_youngest_gives_way_and_the_oldest_gets_a_token_every_step() {
    let mut cluster = Cluster::new(EngineConfig { kv_blocks: 6, max_context: 96, pipeline_depth: 1, ..config() });
    let oldest = submit(&mut cluster, text(BLOCK_TOKENS, 64));
    (0..3).for_each(|_| drop(submit(&mut cluster, text(BLOCK_TOKENS, 64))));
    let mut steps = 0;
    while tokens(&cluster, &oldest) < 64 {
        cluster.plan();
        cluster.deliver();
        steps += 1;
        assert_eq!(tokens(&cluster, &oldest), steps);
    }
    assert!(cluster.engine.stats().preemptions > 0);
    cluster.drain();
}

#[test]
fn a_request_expires_in_the_queue_as_it_does_running() {
    let mut cluster = Cluster::new(EngineConfig { max_batch_sequences: 1, ..config() });
    let patient = |ms| NewRequest { deadline: Some(Duration::from_millis(ms)), ..text(4, 100) };
    let running = submit(&mut cluster, patient(20));
    let waiting = submit(&mut cluster, patient(10));
    cluster.plan();
    for (ms, ended, left) in [(10, &waiting, Some(20)), (20, &running, None)] {
        cluster.now = Duration::from_millis(ms);
        cluster.engine.tick(cluster.now);
        cluster.listen();
        assert_eq!(cluster.client.streams[&ended.sequences[0]].end, Some(FinishReason::DeadlineExceeded));
        assert_eq!(cluster.engine.next_deadline(), left.map(Duration::from_millis));
    }
    assert_eq!(cluster.engine.stats().blocks_used, 0);
}

#[test]
fn a_lost_group_replays_from_the_tokens_so_far() {
    let mut cluster = Cluster::new(config());
    let admission = submit(&mut cluster, text(20, 12));
    while tokens(&cluster, &admission) < 5 {
        while cluster.plan().is_some() {}
        cluster.deliver();
    }
    cluster.lose_group(32);
    let plan = cluster.plan().unwrap();
    assert_eq!((plan.epoch, plan.step, plan.end.len()), (Epoch(2), StepId(1), 0));
    assert_eq!((plan.start[0].tokens.len(), plan.start[0].prompt_len), (25, 20));
    cluster.drain();
    assert_eq!(tokens(&cluster, &admission), 12);
}

#[test]
fn a_stream_that_a_smaller_cache_cannot_hold_says_so_and_never_ends_as_if_it_were_done() {
    let mut cluster = Cluster::new(EngineConfig { kv_blocks: 32, ..config() });
    let admission = submit(&mut cluster, text(20, 100));
    for _ in 0..4 {
        while cluster.plan().is_some() {}
        cluster.deliver();
    }
    cluster.lose_group(3);
    cluster.drain();
    assert_eq!(tokens(&cluster, &admission), 3 * 16 - 20, "it goes on for as long as there is room");
    assert_eq!(cluster.client.streams[&admission.sequences[0]].end, Some(FinishReason::CacheTooSmall));
}

#[test]
fn a_cache_that_grows_back_in_time_loses_nothing() {
    let mut cluster = Cluster::new(EngineConfig { kv_blocks: 32, ..config() });
    let admission = submit(&mut cluster, text(20, 60));
    cluster.plan();
    cluster.deliver();
    cluster.lose_group(3);
    cluster.plan();
    cluster.deliver();
    cluster.lose_group(32);
    cluster.drain();
    assert_eq!(tokens(&cluster, &admission), 60);
    assert_eq!(cluster.client.streams[&admission.sequences[0]].end, Some(FinishReason::Length));
}

#[test]
fn a_request_that_comes_with_its_last_token_ends_without_a_step() {
    let mut cluster = Cluster::new(config());
    let mut request = text(4, 3);
    request.sequences[0].generated = generate(&request.prompt, &[], &sampling(7, 3), 3);
    let admission = submit(&mut cluster, request);
    cluster.listen();
    assert_eq!(cluster.client.streams[&admission.sequences[0]].end, Some(FinishReason::Length));
    assert!(cluster.plan().is_none());
}

#[test]
fn the_stages_of_a_request_add_up_to_its_time() {
    let mut cluster = Cluster::new(EngineConfig { step_tokens: 5, pipeline_depth: 1, ..config() });
    let admission = submit(&mut cluster, pictures(2));
    cluster.now = Duration::from_millis(30);
    let timings = loop {
        cluster.plan();
        cluster.now += Duration::from_millis(1);
        let output = cluster.travelling.pop_front().unwrap();
        cluster.engine.apply(cluster.now, output).unwrap();
        let events = cluster.engine.take_events();
        let done = events.into_iter().find_map(|event| match event {
            Event::RequestFinished { request, timings, .. } => Some((request, timings)),
            _ => None,
        });
        if let Some((request, timings)) = done {
            assert_eq!(request, admission.request);
            break timings;
        }
    };
    // 23 prompt tokens at 5 a step make 5 steps, two of them encode for 7 µs; three more tokens follow.
    let encode = Duration::from_micros(14);
    let expected = RequestTimings {
        queue: Duration::from_millis(30),
        encode,
        prefill: Duration::from_millis(5) - encode,
        decode: Duration::from_millis(3),
    };
    assert_eq!(timings, expected);
}

#[test]
fn an_output_that_answers_no_plan_is_an_error() {
    let mut cluster = Cluster::new(config());
    submit(&mut cluster, text(4, 4));
    cluster.plan();
    let mut output = cluster.travelling.pop_front().unwrap();
    let other = StepOutput { step: StepId(9), ..output.clone() };
    let error = OutputError::Step { expected: Some(StepId(1)), got: StepId(9) };
    assert_eq!(cluster.engine.apply(cluster.now, other), Err(error));
    output.sampled.clear();
    assert_eq!(cluster.engine.apply(cluster.now, output), Err(OutputError::Sequences(StepId(1))));
}
