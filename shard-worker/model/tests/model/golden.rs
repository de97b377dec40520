//! The tiny random checkpoint gives what the reference programs give.

use tessera_device::{Device, Dtype};
use tessera_model::{Model, WeightSource};
use tessera_types::{SequenceId, TokenId, VisionParallel};

use crate::cases::{self, Case};
use crate::driver::{Driver, greedy, group, group_sharing, start};

const STEPS: usize = 24;

/// The greatest distance of two rows.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Runs a case greedily: its tokens, the logits of each step, and its images' features.
pub(crate) fn run<D: Device>(driver: &mut Driver, model: &mut Model<D>, case: &Case) -> (Vec<TokenId>, Vec<f32>, Vec<f32>) {
    driver.plan.encode = case.images.clone();
    driver.start(start(1, case, greedy()));
    let (mut tokens, mut logits) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        driver.chunk(1, usize::MAX);
        let output = driver.step(model, &mut |_, _, row| logits.extend_from_slice(row));
        tokens.push(output.sampled[0].token);
    }
    let features = case.images.iter().flat_map(|image| model.image_features(image.key).unwrap().unwrap()).collect();
    driver.plan.end.push(SequenceId(1));
    driver.plan.forget_images = case.images.iter().map(|image| image.key).collect();
    driver.step(model, &mut |_, _, _| {});
    (tokens, logits, features)
}

pub(crate) fn check_f32(layout: &str, tp: usize, parallel: VisionParallel) {
    let cases = cases::all();
    let source = WeightSource::open(&cases::fixture(layout)).unwrap();
    group_sharing(&source, tp, Dtype::F32, parallel, |model| {
        let mut driver = Driver::new();
        for case in &cases {
            let within = |what: &str, got: &[f32], expected: &[f32], limit: f32| {
                let d = distance(got, expected);
                assert!(d <= limit, "{} {what}: {d} is over {limit}", case.name);
            };
            within("vision", &model.vision_output(&case.images).unwrap(), &case.vision, 5e-5);
            let (tokens, logits, features) = run(&mut driver, model, case);
            within("adapter", &features, &case.projected, 5e-5);
            within("prefill", &logits[..case.prefill_logits.len()], &case.prefill_logits, 5e-4);
            within("steps", &logits, &case.step_logits, 5e-4);
            assert_eq!(tokens, case.greedy, "{}", case.name);
        }
    });
}

#[test]
fn f32_equals_the_reference_from_the_hugging_face_layout() {
    check_f32("hf", 1, VisionParallel::Tensor);
}

#[test]
fn f32_equals_the_reference_from_the_mistral_layout() {
    check_f32("mistral", 1, VisionParallel::Tensor);
}

#[test]
fn two_ranks_equal_the_reference() {
    check_f32("hf", 2, VisionParallel::Tensor);
    check_f32("mistral", 2, VisionParallel::Tensor);
}

#[test]
fn four_ranks_equal_the_reference() {
    check_f32("hf", 4, VisionParallel::Tensor);
    check_f32("mistral", 4, VisionParallel::Tensor);
}

/// Logits of every position that the reference's greedy path asks for, with that path fed.
pub(crate) fn forced<D: Device>(driver: &mut Driver, model: &mut Model<D>, case: &Case) -> Vec<f32> {
    driver.plan.encode = case.images.clone();
    let mut start = start(1, case, greedy());
    start.tokens.extend_from_slice(&case.greedy[..STEPS - 1]);
    // As a prompt every position has its logits shown.
    start.prompt_len = start.tokens.len() as u32;
    start.sampling.logprobs.prompt = Some(0);
    driver.start(start);
    driver.chunk(1, usize::MAX);
    let mut logits = Vec::new();
    let first = case.ids.len() as u32 - 1;
    driver.step(model, &mut |_, position, row| {
        if position >= first {
            logits.extend_from_slice(row);
        }
    });
    driver.plan.end.push(SequenceId(1));
    driver.step(model, &mut |_, _, _| {});
    logits
}

#[test]
fn bf16_stays_near_the_f32_reference() {
    let cases = cases::all();
    for tp in [1, 2] {
        group(&cases::fixture("hf"), tp, Dtype::Bf16, |model| {
            let mut driver = Driver::new();
            for case in &cases {
                check_bf16(case, &forced(&mut driver, model, case));
            }
        });
    }
}

/// Of the logits that the reference programs compute.
pub(crate) fn check_bf16(case: &Case, logits: &[f32]) {
    check_near(case, logits, &case.step_logits);
}

/// The root of the mean square distance of two rows.
pub(crate) fn rms(a: &[f32], b: &[f32]) -> f32 {
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / a.len() as f32).sqrt()
}

/// Tolerances against f32 values of a reference: bf16 rounding of another program moves logits by 0.09 rms.
pub(crate) fn check_near(case: &Case, logits: &[f32], expected: &[f32]) {
    let vocab = case.prefill_logits.len();
    assert_eq!((logits.len(), expected.len()), (STEPS * vocab, STEPS * vocab));
    for (got, expected) in logits.chunks(vocab).zip(expected.chunks(vocab)) {
        let rms = rms(got, expected);
        assert!(rms <= 0.15, "{} rms {rms}", case.name);
        assert!(distance(got, expected) <= 0.8, "{}", case.name);
        let (best, margin) = winner(expected);
        assert!(margin <= 0.3 || winner(got).0 == best, "{} margin {margin}", case.name);
    }
}

/// The greatest logit's id, and how far it is above the second.
fn winner(logits: &[f32]) -> (usize, f32) {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    (ids[0], logits[ids[0]] - logits[ids[1]])
}
