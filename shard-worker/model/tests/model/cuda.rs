//! The forward pass on a GPU, which here is a stand-in that runs the kernels on the CPU.

use tessera_collective::Solo;
use tessera_device::cuda::{CudaConfig, CudaDevice};
use tessera_device::{Dtype, Quantization, WeightFormat};
use tessera_model::{CacheConfig, Model, WeightSource};
use tessera_types::{Rank, SamplingParams, SequenceId, ShardPlan, TokenId};

use crate::cases::{self, Case};
use crate::driver::{Driver, alone, greedy, start};
use crate::golden::{check_bf16, check_near, forced, rms};
use crate::quantised;

/// Blocks of the cache: enough for every case.
const BLOCKS: usize = 600;
const WORKSPACE: usize = 96 << 20;

const BF16: WeightFormat = WeightFormat { dtype: Dtype::Bf16, quantization: None };
const FP8: WeightFormat = WeightFormat { dtype: Dtype::Bf16, quantization: Some(Quantization::Fp8) };

fn device(format: WeightFormat, records: bool) -> CudaDevice {
    tessera_test_gpu::open();
    let kernels = Some(tessera_test_gpu::kernels());
    CudaDevice::new(&CudaConfig { ordinal: 0, kernels, workspace: Some(WORKSPACE), records }, format).unwrap()
}

fn model(layout: &str, format: WeightFormat, records: bool) -> Model<CudaDevice> {
    let source = WeightSource::open(&cases::fixture(layout)).unwrap();
    let plan = ShardPlan::new(source.spec(), 1, Rank(0)).unwrap();
    let cache = CacheConfig { blocks: BLOCKS, dtype: Dtype::Bf16 };
    Model::load(&source, plan, device(format, records), Box::new(Solo::default()), cache, &mut |_, _| Ok(())).unwrap()
}

#[test]
fn both_layouts_stay_near_the_f32_reference() {
    for layout in ["hf", "mistral"] {
        let (mut model, mut driver) = (model(layout, BF16, false), Driver::new());
        for case in &cases::all() {
            check_bf16(case, &forced(&mut driver, &mut model, case));
        }
    }
}

#[test]
fn fp8_weights_of_both_layouts_stay_near_an_f32_reference_that_has_them() {
    for layout in ["hf", "mistral"] {
        let folder = quantised::checkpoint(layout);
        let mut reference = alone(&WeightSource::open(folder.path()).unwrap(), Dtype::F32);
        let (mut model, mut driver, mut reference_driver) = (model(layout, FP8, false), Driver::new(), Driver::new());
        for case in &cases::all() {
            let logits = forced(&mut driver, &mut model, case);
            let expected = forced(&mut reference_driver, &mut reference, case);
            check_near(case, &logits, &expected);
            let (with, without) = (rms(&logits, &expected), rms(&logits, &case.step_logits));
            assert!(without > 4.0 * with, "{}: {with} from the quantised weights, {without} from the others", case.name);
        }
    }
}

#[test]
fn the_vision_encoder_and_the_adapter_are_not_quantised() {
    let case = &cases::all()[2];
    let features = |format| {
        let mut model = model("hf", format, false);
        forced(&mut Driver::new(), &mut model, case);
        let features = model.image_features(case.images[0].key).unwrap().unwrap();
        features.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(features(FP8), features(BF16));
}

/// Logits of a case whose first tokens come in chunks of `most`, and those the reference chose one by one.
fn by_steps(driver: &mut Driver, model: &mut Model<CudaDevice>, case: &Case, most: usize) -> Vec<f32> {
    driver.plan.encode = case.images.clone();
    let mut start = start(1, case, greedy());
    start.tokens.extend_from_slice(&case.greedy[..5]);
    start.prompt_len = start.tokens.len() as u32;
    start.sampling.logprobs.prompt = Some(0);
    let first = case.ids.len() as u32 - 1;
    driver.start(start);
    let mut logits = Vec::new();
    while driver.left(1) > 0 {
        driver.chunk(1, if driver.left(1) > 6 { most.min(driver.left(1) - 6) } else { 1 });
        let sampled = driver.step(model, &mut |_, position, row| {
            if position >= first {
                logits.extend_from_slice(row);
            }
        });
        if !sampled.sampled.is_empty() {
            break;
        }
    }
    driver.plan.end.push(SequenceId(1));
    driver.step(model, &mut |_, _, _| {});
    logits
}

/// What a token attends with and is multiplied by depends on neither the chunk nor on whether it is a chunk of its own.
#[test]
fn a_row_has_the_same_bits_in_any_chunk() {
    // As a whole the second goes through the kernels for many rows.
    for (format, number) in [(BF16, 0), (BF16, 3), (FP8, 0), (FP8, 3)] {
        let (mut model, mut driver) = (model("hf", format, false), Driver::new());
        let case = &cases::all()[number];
        let whole = forced(&mut driver, &mut model, case);
        let vocab = case.prefill_logits.len();
        for most in [usize::MAX, 7, 1] {
            let stepped = by_steps(&mut driver, &mut model, case, most);
            let same = stepped.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(stepped.len() == 6 * vocab && same, "{format:?}, {}, chunks of {most}", case.name);
        }
    }
}

/// Ways to choose that use all there is: greedy; drawn from few; drawn, with everything taken into account.
fn ways() -> [SamplingParams; 3] {
    let drawn = SamplingParams { seed: 7, ..SamplingParams::default() };
    let few = SamplingParams { temperature: 0.8, top_k: 20, top_p: 0.9, ..drawn.clone() };
    let all = SamplingParams {
        temperature: 1.3,
        min_p: 0.02,
        presence_penalty: 0.4,
        frequency_penalty: 0.3,
        repetition_penalty: 1.2,
        logit_bias: vec![(TokenId(17), 3.0), (TokenId(1200), -4.0)],
        min_new_tokens: 20,
        ..drawn.clone()
    };
    [SamplingParams { temperature: 0.0, ..drawn }, few, all]
}

/// Ten tokens of each way of choosing, all in one batch; `seen` ones are chosen on the host, the others by the device.
fn chosen(model: &mut Model<CudaDevice>, seen: bool) -> Vec<(SequenceId, TokenId)> {
    let (mut driver, case) = (Driver::new(), &cases::all()[0]);
    for (id, sampling) in (1..).zip(ways()) {
        driver.start(start(id, case, sampling));
    }
    let mut tokens = Vec::new();
    for _ in 0..10 {
        (1..=3).for_each(|id| driver.chunk(id, usize::MAX));
        let output = if seen { driver.step(model, &mut |_, _, _| {}) } else { driver.step_unseen(model) };
        assert!(output.broken.is_empty());
        tokens.extend(output.sampled.iter().map(|sampled| (sampled.sequence, sampled.token)));
    }
    tokens
}

#[test]
fn recorded_passes_and_choices_of_the_device_give_what_the_host_would_choose() {
    for format in [BF16, FP8] {
        let wanted = chosen(&mut model("hf", format, false), true);
        assert_eq!(chosen(&mut model("hf", format, true), false), wanted, "{format:?}");
    }
}
