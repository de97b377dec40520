//! Plans that cannot be run are refused with what is wrong, and nothing of them is done.

use std::sync::OnceLock;

use tessera_collective::Solo;
use tessera_device::Dtype;
use tessera_device::cpu::CpuDevice;
use tessera_model::{Model, ModelError, PlanError, WeightSource};
use tessera_types::{
    BlockId, Chunk, DecoderSpec, Grid, ImageEncode, ImageKey, ModelSpec, Sampled, SamplingParams, SequenceId, SequenceStart,
    StepId, StepPlan, TokenId,
};

use crate::cases::{self, Case};
use crate::driver::{BLOCKS, Driver, alone, empty_plan, greedy, start};

fn image_case() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| cases::load(2, "image1"))
}

/// Sequence 1 is the image case, its prompt run and one token chosen.
fn running() -> Model<CpuDevice> {
    let source = WeightSource::open(&cases::fixture("mistral")).unwrap();
    let mut model = alone(&source, Dtype::F32);
    let mut driver = Driver::new();
    driver.plan.encode = image_case().images.clone();
    driver.start(start(1, image_case(), greedy()));
    driver.chunk(1, usize::MAX);
    driver.step(&mut model, &mut |_, _, _| {});
    model
}

fn chunk(sequence: u64, start: usize, len: u32, blocks: std::ops::Range<u32>) -> Chunk {
    Chunk { sequence: SequenceId(sequence), start: start as u32, len, new_blocks: blocks.map(BlockId).collect(), sample: false }
}

fn with(change: impl FnOnce(&mut StepPlan)) -> StepPlan {
    let mut plan = empty_plan(2);
    change(&mut plan);
    plan
}

fn start_of(id: u64) -> SequenceStart {
    start(id, image_case(), greedy())
}

/// A start of sequence 2 that is right but for `change`.
fn starting(change: impl FnOnce(&mut SequenceStart)) -> StepPlan {
    let mut second = start(2, image_case(), greedy());
    change(&mut second);
    with(|plan| plan.start.push(second))
}

#[test]
fn wrong_plans_are_refused_by_name() {
    let mut model = running();
    let known = image_case().ids.len() + 1;
    let image = image_case().images[0].clone();
    let (id, key) = (SequenceId(1), image.key);
    let far = 500..500 + BLOCKS as u32;
    let first = |blocks: &[u32], start: usize| {
        let new_blocks = blocks.iter().map(|&block| BlockId(block)).collect();
        with(|p| {
            p.start.push(start_of(2));
            p.chunks.push(Chunk { new_blocks, ..chunk(2, start, 16, 0..0) });
        })
    };
    let cases: Vec<(StepPlan, PlanError)> = vec![
        (with(|p| p.step = StepId(3)), PlanError::Step { expected: StepId(2), got: StepId(3) }),
        (with(|p| p.step = StepId(1)), PlanError::Step { expected: StepId(2), got: StepId(1) }),
        (with(|p| p.end.push(SequenceId(9))), PlanError::UnknownSequence(SequenceId(9))),
        (with(|p| p.end.extend([id, id])), PlanError::UnknownSequence(id)),
        // Sequence 1 holds block 0; it may be read behind a later start, not written.
        (first(&[0], 0), PlanError::BlockShared { sequence: SequenceId(2), block: BlockId(0) }),
        (first(&[0, 1], 16), PlanError::BlockShared { sequence: SequenceId(2), block: BlockId(1) }),
        (first(&[500, 500], 0), PlanError::BlockTwice { sequence: SequenceId(2), block: BlockId(500) }),
        // Nobody has filled block 500.
        (first(&[500, 501], 16), PlanError::Start { sequence: SequenceId(2), expected: 0, got: 16 }),
        (first(&[0, 500, 501], 32), PlanError::Start { sequence: SequenceId(2), expected: 16, got: 32 }),
        (
            with(|p| {
                p.start.extend([start_of(2), start_of(3)]);
                p.chunks.extend([chunk(2, 0, 16, 500..501), chunk(3, 0, 16, 500..501)]);
            }),
            PlanError::BlockShared { sequence: SequenceId(2), block: BlockId(500) },
        ),
        (with(|p| p.chunks.push(chunk(9, 0, 1, 0..1))), PlanError::UnknownSequence(SequenceId(9))),
        (
            with(|p| {
                p.end.push(id);
                p.chunks.push(chunk(1, known - 1, 1, 500..501));
            }),
            PlanError::UnknownSequence(id),
        ),
        (with(|p| p.start.push(start(1, image_case(), greedy()))), PlanError::StartedTwice(id)),
        (with(|p| p.chunks.extend([chunk(1, known - 1, 1, 500..501), chunk(1, known, 1, 501..502)])), PlanError::TwoChunks(id)),
        (
            with(|p| p.chunks.push(chunk(1, known - 2, 1, 500..501))),
            PlanError::Start { sequence: id, expected: known - 1, got: known as u32 - 2 },
        ),
        (
            with(|p| p.chunks.push(chunk(1, known - 1, 2, 500..501))),
            PlanError::Length { sequence: id, start: known as u32 - 1, len: 2, known },
        ),
        (
            with(|p| p.chunks.push(chunk(1, known - 1, u32::MAX, 500..501))),
            PlanError::Length { sequence: id, start: known as u32 - 1, len: u32::MAX, known },
        ),
        (
            with(|p| p.chunks.push(chunk(1, known - 1, 1, far))),
            PlanError::Block { sequence: id, block: BlockId(BLOCKS as u32), blocks: BLOCKS },
        ),
        (
            with(|p| {
                p.start.push(start(2, image_case(), greedy()));
                p.chunks.push(chunk(2, 0, 40, 500..502));
            }),
            PlanError::Blocks { sequence: SequenceId(2), needed: 3, given: 2 },
        ),
        (
            with(|p| {
                p.forget_images.push(key);
                p.start.push(start(2, image_case(), greedy()));
                p.chunks.push(chunk(2, 0, 16, 500..501));
            }),
            PlanError::UnknownImage { sequence: SequenceId(2), image: key, patches: image.grid.patches() },
        ),
        (
            with(|p| {
                p.start.push(start(2, image_case(), greedy()));
                p.chunks.push(Chunk { sample: true, ..chunk(2, 0, 16, 500..501) });
            }),
            PlanError::SampledEarly { sequence: SequenceId(2), end: 16, known: known - 1 },
        ),
        (
            starting(|s| s.prompt_len = known as u32),
            PlanError::Prompt { sequence: SequenceId(2), prompt_len: known as u32, tokens: known - 1 },
        ),
        (
            starting(|s| s.tokens[3] = TokenId(4096)),
            PlanError::Token { sequence: SequenceId(2), token: TokenId(4096), vocab_size: 4096 },
        ),
        (
            starting(|s| s.images[0].at = known as u32),
            PlanError::Placement { sequence: SequenceId(2), image: key, at: known as u32 },
        ),
        (
            with(|p| p.encode.push(ImageEncode { grid: Grid { rows: 17, cols: 1 }, ..image.clone() })),
            PlanError::Grid { image: key, rows: 17, cols: 1, limit: 16 },
        ),
        (
            with(|p| p.encode.push(ImageEncode { pixels: image.pixels.slice(4..), ..image.clone() })),
            PlanError::Pixels { image: key, got: image.pixels.len() - 4, expected: image.pixels.len() },
        ),
    ];
    for (plan, expected) in cases {
        assert_eq!(model.step(&plan), Err(ModelError::Plan(expected)));
    }
    let bad = SamplingParams { temperature: f32::NAN, ..greedy() };
    let error = model.step(&starting(|s| s.sampling = bad)).unwrap_err();
    assert!(error.to_string().contains("sequence 2: temperature must be"), "{error}");

    let next = with(|p| p.chunks.push(Chunk { sample: true, ..chunk(1, known - 1, 1, 500..501) }));
    assert_eq!(model.step(&next).unwrap().sampled[0].token, image_case().greedy[1], "the sequence was left as it was");
}

#[test]
fn a_text_only_model_refuses_images() {
    let decoder = DecoderSpec { layers: 1, dim: 64, ffn_dim: 64, vocab_size: 64, ..ModelSpec::bench_1b().decoder };
    let source = WeightSource::dummy(ModelSpec { decoder, ..ModelSpec::bench_1b() }, 1);
    let mut model = alone(&source, Dtype::F32);
    let image = image_case().images[0].clone();
    let error = model.step(&with(|p| p.encode.push(image.clone()))).unwrap_err();
    assert_eq!(error, ModelError::Plan(PlanError::NoVision(image.key)));
}

#[test]
fn a_forgotten_image_is_gone() {
    let mut model = running();
    let key = image_case().images[0].key;
    assert!(model.image_features(key).unwrap().is_some());
    model.step(&with(|p| p.forget_images.push(key))).unwrap();
    assert!(model.image_features(key).unwrap().is_none());
    assert!(model.image_features(ImageKey([9; 32])).unwrap().is_none());
}

#[test]
fn prompt_log_probabilities_do_not_depend_on_the_chunks() {
    let source = WeightSource::open(&cases::fixture("mistral")).unwrap();
    let mut model = alone(&source, Dtype::F32);
    let case = image_case();
    let mut params = greedy();
    params.logprobs.prompt = Some(2);
    let mut step = 1;
    let mut collect = |sizes: &[usize]| {
        let mut driver = Driver::at(step);
        driver.plan.encode = case.images.clone();
        driver.start(start(1, case, params.clone()));
        let mut described = Vec::new();
        for &size in sizes {
            driver.chunk(1, size);
            for chunk in driver.step(&mut model, &mut |_, _, _| {}).prompt_logprobs {
                assert_eq!(chunk.start as usize, described.len() + 1, "nothing predicts the first token");
                described.extend(chunk.tokens);
            }
        }
        driver.plan.end.push(SequenceId(1));
        driver.step(&mut model, &mut |_, _, _| {});
        step = driver.plan.step.0;
        described
    };
    let whole = collect(&[1000]);
    assert_eq!(whole, collect(&[1, 7, 70, 1000]));
    let tokens: Vec<_> = whole.iter().map(|described| described.token).collect();
    assert_eq!(tokens, case.ids[1..]);
    assert!(whole.iter().all(|described| described.logprob < 0.0 && described.top.len() == 2));
}

/// Runs sequence 1 until it has as many tokens as the reference generated.
fn finish(driver: &mut Driver, model: &mut Model<CpuDevice>, have: usize) -> Vec<Sampled> {
    let steps = have..image_case().greedy.len();
    let sampled = steps.map(|_| {
        driver.chunk(1, usize::MAX);
        driver.step(model, &mut |_, _, _| {}).sampled.remove(0)
    });
    sampled.collect()
}

#[test]
fn a_sequence_that_is_started_again_goes_on_with_the_same_bits() {
    let (case, mut model, mut driver) = (image_case(), running(), Driver::at(2));
    driver.plan.end.push(SequenceId(1));
    driver.start(start(1, case, greedy()));
    let straight = finish(&mut driver, &mut model, 0);
    let mut driver = Driver::at(driver.plan.step.0);
    driver.plan.end.push(SequenceId(1));
    let mut again = start(1, case, greedy());
    again.tokens.extend_from_slice(&case.greedy[..10]);
    driver.start(again);
    assert_eq!(finish(&mut driver, &mut model, 10), straight[10..], "tokens and log-probabilities");
}

#[test]
fn a_prefix_that_another_sequence_left_in_the_cache_can_be_used() {
    let (case, mut model) = (image_case(), running());
    let len = case.ids.len() as u32;
    let row = |model: &mut Model<CpuDevice>, step: u64, first: Chunk| {
        let mut logits = Vec::new();
        let plan = with(|p| {
            p.step = StepId(step);
            p.start.push(start(first.sequence.0, case, greedy()));
            p.chunks.push(Chunk { sample: true, ..first });
        });
        model.step_observed(&plan, &mut |_, _, row| logits = row.to_vec()).unwrap();
        logits
    };
    let whole = row(&mut model, 2, chunk(2, 0, len, 300..300 + len.div_ceil(16)));
    // Sequence 1 holds the same prompt in blocks from 0 on; the last tokens go to blocks of sequence 3's own.
    let shared = len / 16 - 1;
    let mut rest = chunk(3, shared as usize * 16, len - shared * 16, 0..shared);
    rest.new_blocks.extend((400..403).map(BlockId));
    assert_eq!(row(&mut model, 3, rest), whole);
}

#[test]
fn blocks_of_a_sequence_that_ends_can_be_written_at_once() {
    let mut model = running();
    let plan = with(|p| {
        p.end.push(SequenceId(1));
        p.start.push(start_of(2));
        p.chunks.push(chunk(2, 0, 16, 0..1));
    });
    model.step(&plan).unwrap();
}

#[test]
fn what_an_old_group_left_in_the_cache_is_no_prefix() {
    let mut model = running();
    model.join(Box::new(Solo::default())).unwrap();
    let plan = with(|p| {
        p.encode = image_case().images.clone();
        p.start.push(start_of(2));
        p.chunks.push(chunk(2, 16, 16, 0..2));
    });
    let expected = PlanError::Start { sequence: SequenceId(2), expected: 0, got: 16 };
    assert_eq!(model.step(&plan), Err(ModelError::Plan(expected)));
}

#[test]
fn a_model_that_joins_a_new_group_starts_afresh() {
    let mut model = running();
    model.join(Box::new(Solo::default())).unwrap();
    let next = with(|p| p.chunks.push(chunk(1, image_case().ids.len(), 1, 500..501)));
    assert_eq!(model.step(&next), Err(ModelError::Plan(PlanError::UnknownSequence(SequenceId(1)))));
    let mut driver = Driver::new();
    driver.plan.encode = image_case().images.clone();
    driver.start(start(1, image_case(), greedy()));
    driver.chunk(1, usize::MAX);
    assert_eq!(driver.step(&mut model, &mut |_, _, _| {}).sampled[0].token, image_case().greedy[0]);
}
