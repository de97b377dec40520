//! What is found in the cache is not computed again, and nothing is found that is not the same.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod simulation;

use bytes::Bytes;
use simulation::Cluster;
use tessera_engine::{EngineConfig, Event, NewRequest, NewSequence};
use tessera_types::{Grid, ImageEncode, ImageKey, Logprobs, PlacedImage, SamplingParams, TokenId};

fn cluster() -> Cluster {
    cluster_of(64)
}

fn cluster_of(kv_blocks: usize) -> Cluster {
    Cluster::new(EngineConfig {
        kv_blocks,
        max_context: 512,
        max_batch_sequences: 8,
        step_tokens: 64,
        step_patches: 8,
        encoder_tokens: 8,
        queue_len: 8,
        pipeline_depth: 2,
    })
}

fn sampling(seed: u64) -> SamplingParams {
    SamplingParams { seed, max_new_tokens: 4, stop_tokens: Vec::new(), ..Default::default() }
}

fn text(tokens: usize) -> NewRequest {
    NewRequest {
        prompt: (0..tokens as u32).map(TokenId).collect(),
        images: Vec::new(),
        pixels: Vec::new(),
        sequences: vec![NewSequence { sampling: sampling(7), generated: Vec::new() }],
        priority: 0,
        deadline: None,
    }
}

/// 60 tokens with a picture of 10 tokens at `at`.
fn picture(key: u8, at: u32) -> NewRequest {
    let (key, grid) = (ImageKey([key; 32]), Grid { rows: 2, cols: 4 });
    let pixels = vec![ImageEncode { key, grid, pixels: Bytes::new() }];
    NewRequest { images: vec![PlacedImage { key, at, grid }], pixels, ..text(60) }
}

fn submit(cluster: &mut Cluster, request: NewRequest) {
    let admission = cluster.engine.submit(cluster.now, request.clone()).unwrap();
    cluster.client.follow(&request, &admission);
}

/// Runs a request to its end; returns positions computed and left out, and images encoded.
fn run(cluster: &mut Cluster, request: NewRequest) -> (usize, usize, usize) {
    let before = (cluster.worker.computed, cluster.worker.skipped, cluster.worker.encodes);
    submit(cluster, request);
    cluster.drain();
    let worker = &cluster.worker;
    (worker.computed - before.0, worker.skipped - before.1, worker.encodes - before.2)
}

#[test]
fn a_prompt_asked_again_computes_its_last_block_alone() {
    let mut cluster = cluster();
    assert_eq!(run(&mut cluster, text(40)), (43, 0, 0));
    assert_eq!(run(&mut cluster, text(40)), (11, 32, 0));
    assert_eq!(cluster.engine.stats().prefix_hit_tokens, 32);
}

#[test]
fn the_last_token_is_always_computed() {
    let mut cluster = cluster();
    run(&mut cluster, text(32));
    assert_eq!(run(&mut cluster, text(32)), (16 + 3, 16, 0));
}

#[test]
fn a_request_is_told_how_much_of_its_prompt_was_cached() {
    let mut cluster = cluster();
    let mut cached = Vec::new();
    for tokens in [40, 50, 33] {
        cluster.engine.submit(cluster.now, text(tokens)).unwrap();
        while let Some(plan) = cluster.engine.schedule(cluster.now) {
            let output = cluster.worker.run(&plan);
            cluster.engine.apply(cluster.now, output).unwrap();
        }
        let events = cluster.engine.take_events().into_iter();
        cached.extend(events.filter_map(|event| match event {
            Event::RequestFinished { cached_prompt_tokens, .. } => Some(cached_prompt_tokens),
            _ => None,
        }));
    }
    assert_eq!(cached, [0, 32, 32]);
}

#[test]
fn generated_tokens_are_found_as_the_next_turn_of_a_conversation() {
    let mut cluster = cluster();
    let mut first = text(30);
    first.sequences[0].sampling.max_new_tokens = 20;
    run(&mut cluster, first);
    let stream = cluster.client.streams.values().next().unwrap();
    let words = (0..30).map(TokenId).chain(stream.tokens.iter().copied()).chain((0..5).map(TokenId));
    let next = NewRequest { prompt: words.collect(), ..text(1) };
    assert_eq!(run(&mut cluster, next), (55 - 48 + 3, 48, 0));
}

#[test]
fn sequences_of_one_request_share_its_full_blocks() {
    let mut cluster = cluster();
    let mut request = text(52);
    request.sequences = (0..4).map(|n| NewSequence { sampling: sampling(n), generated: Vec::new() }).collect();
    submit(&mut cluster, request);
    cluster.plan();
    cluster.plan();
    assert_eq!(cluster.engine.stats().blocks_used, 3 + 4, "three shared, the last of each its own");
    cluster.drain();
    assert_eq!(cluster.worker.skipped, 3 * 48);
}

#[test]
fn requests_that_come_together_compute_their_common_beginning_once() {
    let mut cluster = cluster();
    (0..3).for_each(|_| submit(&mut cluster, text(200)));
    cluster.drain();
    assert_eq!((cluster.worker.computed, cluster.worker.skipped), (3 * 203 - 2 * 192, 2 * 192));
}

#[test]
fn an_image_inside_the_cached_prefix_is_not_encoded_and_one_that_reaches_out_is() {
    let mut cluster = cluster();
    run(&mut cluster, picture(1, 20));
    // The encoder cache has room for one picture, so another drives the first one out of it.
    run(&mut cluster, picture(8, 20));
    assert_eq!(run(&mut cluster, picture(1, 20)), (15, 48, 0));
    run(&mut cluster, picture(2, 42));
    run(&mut cluster, picture(9, 20));
    assert_eq!(run(&mut cluster, picture(2, 42)), (15, 48, 1));
}

#[test]
fn another_picture_or_another_place_shares_only_what_lies_before() {
    let mut cluster = cluster();
    run(&mut cluster, picture(1, 20));
    assert_eq!(run(&mut cluster, picture(2, 20)).1, 16);
    assert_eq!(run(&mut cluster, picture(1, 21)).1, 16);
    assert_eq!(run(&mut cluster, text(60)).1, 16);
}

#[test]
fn a_prompt_to_be_described_is_computed_whole_and_serves_others() {
    let mut cluster = cluster();
    run(&mut cluster, text(40));
    let mut described = text(40);
    described.sequences[0].sampling.logprobs = Logprobs { generated: None, prompt: Some(0) };
    assert_eq!(run(&mut cluster, described.clone()), (43, 0, 0));
    cluster.lose_group(64);
    run(&mut cluster, described);
    assert_eq!(run(&mut cluster, text(40)).1, 32);
}

#[test]
fn a_new_group_has_an_empty_cache() {
    let mut cluster = cluster();
    run(&mut cluster, text(40));
    cluster.lose_group(64);
    assert_eq!(run(&mut cluster, text(40)), (43, 0, 0));
}

#[test]
fn cached_blocks_count_as_free_and_the_longest_unused_go_first() {
    let mut cluster = cluster_of(8);
    let shifted = |by: u32, tokens: u32| NewRequest { prompt: (by..by + tokens).map(TokenId).collect(), ..text(1) };
    run(&mut cluster, shifted(0, 40));
    run(&mut cluster, shifted(100, 40));
    assert_eq!(cluster.engine.stats().blocks_used, 0);
    assert_eq!(run(&mut cluster, shifted(0, 40)).1, 32);
    // Four blank blocks and two of four cached ones are needed.
    assert_eq!(run(&mut cluster, shifted(200, 90)).1, 0);
    assert_eq!(run(&mut cluster, shifted(0, 40)).1, 32, "used last, so kept");
    assert_eq!(run(&mut cluster, shifted(100, 40)).1, 0);
}
