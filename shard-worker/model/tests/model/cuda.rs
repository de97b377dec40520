//! The forward pass on a GPU, which here is a stand-in that runs the kernels on the CPU.

use std::process::Command;
use std::time::Duration;

use tessera_collective::{Collective, GroupConfig, Solo, Transport};
use tessera_device::Dtype;
use tessera_device::cuda::{CudaConfig, CudaDevice};
use tessera_model::{CacheConfig, Model, WeightSource};
use tessera_types::{Epoch, Rank, SamplingParams, SequenceId, ShardPlan, TokenId, VisionParallel};

use crate::cases::{self, Case};
use crate::driver::{Driver, greedy, start};
use crate::golden::{check_bf16, forced};

/// Blocks of the cache: enough for every case.
const BLOCKS: usize = 600;
const WORKSPACE: usize = 96 << 20;

fn device(ordinal: usize, records: bool) -> CudaDevice {
    tessera_test_gpu::open();
    let kernels = Some(tessera_test_gpu::kernels());
    CudaDevice::new(&CudaConfig { ordinal, kernels, workspace: Some(WORKSPACE), records }, Dtype::Bf16).unwrap()
}

fn model(layout: &str, records: bool) -> Model<CudaDevice> {
    load(layout, device(0, records), Box::new(Solo::default()), VisionParallel::Tensor)
}

fn load(layout: &str, device: CudaDevice, collective: Box<dyn Collective>, parallel: VisionParallel) -> Model<CudaDevice> {
    let source = WeightSource::open(&cases::fixture(layout)).unwrap();
    let plan = ShardPlan::new(source.spec(), collective.size(), collective.rank()).unwrap().sharing_images(parallel);
    let cache = CacheConfig { blocks: BLOCKS, dtype: Dtype::Bf16 };
    Model::load(&source, plan, device, collective, cache, &mut |_, _| Ok(())).unwrap()
}

#[test]
fn both_layouts_stay_near_the_f32_reference() {
    for layout in ["hf", "mistral"] {
        let (mut model, mut driver) = (model(layout, false), Driver::new());
        for case in &cases::all() {
            check_bf16(case, &forced(&mut driver, &mut model, case));
        }
    }
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
    let (mut model, mut driver) = (model("hf", false), Driver::new());
    let case = &cases::all()[0];
    let whole = forced(&mut driver, &mut model, case);
    let vocab = case.prefill_logits.len();
    for most in [usize::MAX, 7, 1] {
        let stepped = by_steps(&mut driver, &mut model, case, most);
        let same = stepped.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(stepped.len() == 6 * vocab && same, "chunks of {most}");
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
    let wanted = chosen(&mut model("hf", false), true);
    assert_eq!(chosen(&mut model("hf", true), false), wanted);
}

/// Runs `work` on every rank of two GPUs that NCCL joins; the results in rank order.
fn two_gpus<R: Send>(layout: &str, parallel: VisionParallel, work: impl Fn(&mut Model<CudaDevice>) -> R + Sync) -> Vec<R> {
    let id = tessera_collective::nccl_id().unwrap();
    let config = |rank: usize| GroupConfig {
        group: "two".into(),
        epoch: Epoch(1),
        rank: Rank(rank as u16),
        size: 2,
        transport: Transport::Nccl { id },
        deadline: Duration::from_secs(120),
    };
    std::thread::scope(|scope| {
        let work = &work;
        let spawn = |rank: usize| {
            scope.spawn(move || {
                let device = device(rank, false);
                work(&mut load(layout, device, tessera_collective::join(&config(rank)).unwrap(), parallel))
            })
        };
        let ranks: Vec<_> = (0..2).map(spawn).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Features of all images, encoded in one step.
fn features(model: &mut Model<CudaDevice>) -> Vec<f32> {
    let images: Vec<_> = cases::all().into_iter().flat_map(|case| case.images).collect();
    let mut driver = Driver::new();
    driver.plan.encode = images.clone();
    driver.step_unseen(model);
    images.iter().flat_map(|image| model.image_features(image.key).unwrap().unwrap()).collect()
}

const CHILD: &str = "TESSERA_TEST_TWO_GPUS";

/// What needs two GPUs, in a process that sees as many; nothing when the tests are run as tests.
#[test]
fn two_gpus_as_a_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let alone = features(&mut model("mistral", false));
    for features in two_gpus("mistral", VisionParallel::Image, features) {
        assert!(features.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "one rank's own sums, on any number");
    }
    let rms = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    for features in two_gpus("mistral", VisionParallel::Tensor, features) {
        let apart = rms(&mut features.iter().zip(&alone).map(|(a, b)| a - b)) / rms(&mut alone.iter().copied());
        assert!(apart > 0.0 && apart < 0.02, "sums of rounded parts: {apart}");
    }
    for parallel in [VisionParallel::Tensor, VisionParallel::Image] {
        two_gpus("hf", parallel, |model| {
            let mut driver = Driver::new();
            for case in cases::all().iter().filter(|case| ["image1", "image_turns"].contains(&case.name)) {
                check_bf16(case, &forced(&mut driver, model, case));
            }
        });
    }
}

#[test]
fn two_gpus_encode_apart_what_one_encodes_and_stay_near_the_reference_either_way() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "cuda::two_gpus_as_a_child", "--nocapture"]).env(CHILD, "1");
    let ended = child.envs(tessera_test_gpu::environment(2)).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
