//! Whatever comes, in whatever order: plans a worker can obey, every token once and right, and an end to everything.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod simulation;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use simulation::Cluster;
use simulation::reference::generate;
use tessera_engine::{EngineConfig, FinishReason, NewRequest, NewSequence, Refusal};
use tessera_types::{Grid, ImageEncode, ImageKey, Logprobs, PlacedImage, SamplingParams, TokenId};

#[derive(Clone, Debug)]
struct Ask {
    text: usize,
    /// Text tokens before the image, and which picture it is.
    images: Vec<(usize, u8)>,
    sequences: usize,
    /// Which of a few texts; one begins as others do.
    family: u32,
    max_new: u32,
    stops: u32,
    prompt_logprobs: bool,
    priority: i32,
    patience: Option<u64>,
    resumed: usize,
    seed: u64,
}

#[derive(Clone, Debug)]
enum Act {
    Submit(Ask),
    Cancel(usize),
    Plan,
    Deliver,
    Wait(u64),
    LoseGroup,
    ShrinkGroup(usize),
    HearStale,
}

/// Every picture has one size, and some have the same.
fn grid(picture: u8) -> Grid {
    let picture = picture % 6;
    Grid { rows: 1 + u32::from(picture) % 3, cols: 1 + u32::from(picture) / 2 }
}

fn ask() -> impl Strategy<Value = Ask> {
    let shape = (1..60usize, prop::collection::vec((0..20usize, 0..9u8), 0..4), 1..4usize, 1..40u32, 0..3u32);
    let manner = (0..4u32, prop::bool::weighted(0.2), -1..2i32, prop::option::weighted(0.2, 1..60u64), 0..40usize, 0..4u64);
    (shape, manner).prop_map(|((text, images, sequences, max_new, family), manner)| {
        let (stops, prompt_logprobs, priority, patience, resumed, seed) = manner;
        Ask { text, images, sequences, family, max_new, stops, prompt_logprobs, priority, patience, resumed, seed }
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => ask().prop_map(Act::Submit),
        1 => (0..64usize).prop_map(Act::Cancel),
        12 => Just(Act::Plan),
        8 => Just(Act::Deliver),
        2 => (1..20u64).prop_map(Act::Wait),
        1 => Just(Act::LoseGroup),
        1 => (2..40usize).prop_map(Act::ShrinkGroup),
        1 => Just(Act::HearStale),
    ]
}

fn config() -> impl Strategy<Value = EngineConfig> {
    (3..40usize, 20..200usize, 1..6usize, 1..40usize, 1..20usize, 9..24usize, 1..8usize, 1..=4usize).prop_map(
        |(kv_blocks, max_context, max_batch_sequences, step_tokens, step_patches, encoder_tokens, queue_len, pipeline_depth)| {
            EngineConfig {
                kv_blocks,
                max_context,
                max_batch_sequences,
                step_tokens,
                step_patches,
                encoder_tokens,
                queue_len,
                pipeline_depth,
            }
        },
    )
}

fn request(ask: &Ask, now: Duration, context: usize) -> NewRequest {
    // Texts of different families part at their 20th token.
    let word = |n: usize| TokenId(n as u32 + if n < 20 { 0 } else { 100 * ask.family });
    let mut prompt = vec![TokenId(1)];
    let mut images = Vec::new();
    for &(gap, picture) in &ask.images {
        prompt.extend((0..gap).map(word));
        images.push(PlacedImage { key: ImageKey([picture; 32]), at: prompt.len() as u32, grid: grid(picture) });
        prompt.extend(vec![TokenId(10); grid(picture).tokens()]);
    }
    prompt.extend((0..ask.text).map(word));
    let sequence = |index: usize| {
        let sampling = SamplingParams {
            seed: ask.seed.wrapping_add(index as u64),
            max_new_tokens: ask.max_new,
            stop_tokens: (0..ask.stops).map(TokenId).collect(),
            logprobs: Logprobs { generated: None, prompt: ask.prompt_logprobs.then_some(0) },
            ..Default::default()
        };
        let resumed = ask.resumed.min(ask.max_new as usize).min(context.saturating_sub(prompt.len()));
        NewSequence { generated: generate(&prompt, &images, &sampling, resumed), sampling }
    };
    let sequences = (0..ask.sequences).map(sequence).collect();
    let pixels = |image: &PlacedImage| ImageEncode { key: image.key, grid: image.grid, pixels: Bytes::new() };
    NewRequest {
        pixels: images.iter().map(pixels).collect(),
        prompt: prompt.into(),
        images,
        sequences,
        priority: ask.priority,
        deadline: ask.patience.map(|patience| now + Duration::from_millis(patience)),
    }
}

fn play(cluster: &mut Cluster, act: Act, patience: bool) {
    match act {
        Act::Submit(mut ask) => {
            ask.patience = ask.patience.filter(|_| patience);
            let context = cluster.engine.config().context();
            let request = request(&ask, cluster.now, context);
            match cluster.engine.submit(cluster.now, request.clone()) {
                Ok(admission) => cluster.client.follow(&request, &admission),
                Err(Refusal::PromptTooLong { tokens, .. }) => assert!(tokens >= context),
                Err(Refusal::QueueFull { waiting, retry_after }) => {
                    assert!(waiting > 0 && retry_after > Duration::ZERO);
                }
                Err(refusal) => panic!("{refusal}"),
            }
        }
        Act::Cancel(which) => {
            let mut ids: Vec<_> = cluster.client.streams.keys().copied().collect();
            ids.sort_unstable();
            ids.get(which).into_iter().for_each(|&id| cluster.engine.cancel(cluster.now, id));
        }
        Act::Plan => drop(cluster.plan()),
        Act::Deliver => cluster.deliver(),
        Act::Wait(ms) => {
            cluster.now += Duration::from_millis(ms);
            cluster.engine.tick(cluster.now);
            assert!(cluster.engine.next_deadline().is_none_or(|deadline| deadline > cluster.now));
        }
        Act::LoseGroup => cluster.lose_group(cluster.engine.config().kv_blocks),
        Act::ShrinkGroup(kv_blocks) => cluster.lose_group(kv_blocks),
        Act::HearStale => {
            if let Some(output) = cluster.stale.pop_front() {
                cluster.engine.apply(cluster.now, output).unwrap();
            }
        }
    }
    cluster.listen();
}

fn check_the_end(cluster: &Cluster) {
    let stats = cluster.engine.stats();
    assert_eq!((stats.blocks_used, stats.running, stats.waiting, stats.queued_tokens), (0, 0, 0, 0));
    assert!(cluster.client.streams.values().all(|stream| stream.end.is_some()), "a sequence without an end");
    assert!(cluster.client.requests_done.values().all(|&times| times == 1));
    assert_eq!(cluster.engine.next_deadline(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_plan_is_valid_and_every_token_comes_once(config in config(), acts in prop::collection::vec(act(), 1..120)) {
        let mut cluster = Cluster::new(config);
        acts.into_iter().for_each(|act| play(&mut cluster, act, true));
        cluster.drain();
        check_the_end(&cluster);
    }

    #[test]
    fn what_nobody_ends_early_runs_to_its_own_end(config in config(), acts in prop::collection::vec(act(), 1..120)) {
        let context = config.context();
        let mut cluster = Cluster::new(config);
        let gentle = |act: &Act| !matches!(act, Act::Cancel(_) | Act::ShrinkGroup(_));
        acts.into_iter().filter(gentle).for_each(|act| play(&mut cluster, act, false));
        cluster.drain();
        check_the_end(&cluster);
        for stream in cluster.client.streams.values() {
            prop_assert!(matches!(stream.end, Some(FinishReason::Stop(_) | FinishReason::Length)));
            prop_assert_eq!(&stream.tokens, &stream.whole(context));
        }
    }
}
