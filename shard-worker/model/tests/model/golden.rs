//! The tiny random checkpoint gives what the reference programs give.

use tessera_device::Dtype;
use tessera_model::Model;
use tessera_types::{SequenceId, TokenId};

use crate::cases::{self, Case};
use crate::driver::{Driver, greedy, group, start};

const STEPS: usize = 24;

/// The greatest distance of two rows.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Runs a case greedily: tokens, and the logits of each step.
fn generate<D: tessera_device::Device>(_: &Model<D>) {}

fn run(model: &mut Model<tessera_device::cpu::CpuDevice>, case: &Case) -> (Vec<TokenId>, Vec<f32>) {
    generate(model);
    let mut driver = Driver::new();
    driver.plan.encode = case.images.clone();
    driver.start(start(1, case, greedy()));
    let (mut tokens, mut logits) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        driver.chunk(1, usize::MAX);
        let output = driver.step(model, &mut |_, _, row| logits.extend_from_slice(row));
        tokens.push(output.sampled[0].token);
    }
    driver.plan.end.push(SequenceId(1));
    driver.plan.forget_images = case.images.iter().map(|image| image.key).collect();
    driver.step(model, &mut |_, _, _| {});
    (tokens, logits)
}

fn check_f32(layout: &str, tp: usize) {
    let cases = cases::all();
    group(&cases::fixture(layout), tp, Dtype::F32, |model| {
        for case in &cases {
            let vision = model.vision_output(&case.images).unwrap();
            let d = distance(&vision, &case.vision);
            assert!(d <= 5e-5, "{} vision {d}", case.name);
            let (tokens, logits) = run(model, case);
            let vocab = case.prefill_logits.len();
            let d = distance(&logits[..vocab], &case.prefill_logits);
            assert!(d <= 5e-4, "{} prefill {d}", case.name);
            let d = distance(&logits, &case.step_logits);
            assert!(d <= 5e-4, "{} steps {d}", case.name);
            assert_eq!(tokens, case.greedy, "{}", case.name);
        }
    });
}
