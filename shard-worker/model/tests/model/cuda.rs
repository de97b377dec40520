//! The forward pass on a GPU, which here is a stand-in that runs the kernels on the CPU.

use tessera_collective::{CollectiveError, Solo};
use tessera_device::Dtype;
use tessera_device::cuda::{CudaConfig, CudaDevice};
use tessera_model::{CacheConfig, Model, WeightSource};
use tessera_types::{Chunk, Rank, SamplingParams, SequenceId, ShardPlan, StepOutput, TokenId};

use crate::cases::{self, Case};
use crate::driver::{Driver, greedy, start};
use crate::golden::{check_bf16, forced};

/// Blocks of the cache: enough for every case.
const BLOCKS: usize = 600;
const WORKSPACE: usize = 96 << 20;

fn device(records: bool) -> CudaDevice {
    tessera_test_gpu::open();
    let kernels = Some(tessera_test_gpu::kernels());
    CudaDevice::new(&CudaConfig { ordinal: 0, kernels, workspace: Some(WORKSPACE), records }, Dtype::Bf16).unwrap()
}

fn model(layout: &str, records: bool) -> Model<CudaDevice> {
    let source = WeightSource::open(&cases::fixture(layout)).unwrap();
    let plan = ShardPlan::new(source.spec(), 1, Rank(0)).unwrap();
    let cache = CacheConfig { blocks: BLOCKS, dtype: Dtype::Bf16 };
    Model::load(&source, plan, device(records), Box::new(Solo::default()), cache, &mut |_, _| Ok(())).unwrap()
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
    let mut recording = model("hf", true);
    assert_eq!(chosen(&mut recording, false), wanted);
    assert!(recording.recorded_passes() > 0, "no pass was recorded");
}

/// Ten tokens of two sequences, whose steps are each begun before the last one has ended; the second sequence is ended while
/// its last token is still to come.
fn chosen_ahead(records: bool) -> Vec<(SequenceId, TokenId)> {
    let (mut model, mut driver, case) = (model("hf", records), Driver::new(), &cases::all()[0]);
    let [greedy, drawn, _] = ways();
    driver.start(start(1, case, greedy));
    driver.start(start(2, case, drawn));
    let mut tokens = Vec::new();
    let mut note = |output: StepOutput| tokens.extend(output.sampled.iter().map(|sampled| (sampled.sequence, sampled.token)));
    for step in 0..11 {
        driver.chunk(1, usize::MAX);
        if step < 10 {
            driver.chunk(2, usize::MAX);
        } else {
            driver.plan.end.push(SequenceId(2));
        }
        let plan = driver.take();
        assert!(model.is_followed_by(&plan));
        assert_eq!(model.begin(&plan).unwrap(), None, "the tokens of a step that was just begun are known");
        if model.open_steps() == 2 {
            note(model.end().unwrap());
        }
    }
    note(model.end().unwrap());
    assert_eq!(model.end(), Err(CollectiveError::Aborted.into()), "nothing is open any more");
    tokens
}

#[test]
fn steps_begun_before_the_last_tokens_are_known_give_the_same_tokens() {
    let (mut model, mut driver, case) = (model("hf", false), Driver::new(), &cases::all()[0]);
    let [greedy, drawn, _] = ways();
    driver.start(start(1, case, greedy));
    driver.start(start(2, case, drawn));
    let mut wanted = Vec::new();
    for step in 0..11 {
        (1..=if step < 10 { 2 } else { 1 }).for_each(|id| driver.chunk(id, usize::MAX));
        wanted.extend(driver.step_unseen(&mut model).sampled.iter().map(|sampled| (sampled.sequence, sampled.token)));
    }
    assert_eq!(wanted.len(), 21);
    assert_eq!([false, true].map(chosen_ahead), [wanted.clone(), wanted]);
}

#[test]
fn a_step_that_needs_tokens_on_the_host_waits_for_them() {
    let (mut model, mut driver, case) = (model("hf", false), Driver::new(), &cases::all()[0]);
    let [plain, _, penalised] = ways();
    let mut described = plain.clone();
    described.logprobs.generated = Some(0);
    for (id, sampling) in (1..).zip([plain, penalised, described]) {
        driver.start(start(id, case, sampling));
        driver.chunk(id, usize::MAX);
    }
    // Its log-probabilities are the host's work, so this step ends as it is begun.
    assert_eq!(model.begin(&driver.take()).unwrap().map(|output| output.sampled.len()), Some(3));
    (1..=2).for_each(|id| driver.chunk(id, usize::MAX));
    assert_eq!(model.begin(&driver.take()).unwrap(), None);
    let followed = |model: &Model<CudaDevice>| {
        [1, 2, 3].map(|id| {
            let mut driver = Driver::at(3);
            driver.plan.chunks = vec![Chunk { sequence: SequenceId(id), start: 0, len: 1, new_blocks: Vec::new(), sample: true }];
            model.is_followed_by(&driver.take())
        })
    };
    assert_eq!(followed(&model), [true, false, false]);
    model.end().unwrap();
    assert_eq!(followed(&model), [true; 3]);
}

/// Also what `on_devices_of_other_capabilities_too` asks processes of other devices; they print what the device gave.
#[test]
fn the_first_case_is_near_the_reference() {
    let (mut model, mut driver, case) = (model("hf", true), Driver::new(), &cases::all()[0]);
    let logits = forced(&mut driver, &mut model, case);
    check_bf16(case, &logits);
    println!("logits {:?}", logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
}

/// Devices differ in processors, in the shared memory of a block, and in the images of the kernels that they take; not in bits.
#[test]
fn on_devices_of_other_capabilities_too() {
    if tessera_test_gpu::is_real() {
        return;
    }
    tessera_test_gpu::kernels();
    let given = |capability: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["cuda::the_first_case_is_near_the_reference", "--exact", "--nocapture"]);
        let output = command.env("FAKE_CUDA_CAPABILITY", capability).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{capability}: {said} {}", String::from_utf8_lossy(&output.stderr));
        said.lines().find_map(|line| Some(line.split_once("logits ")?.1.to_owned())).unwrap()
    };
    let wanted = given("9.0");
    for capability in ["8.0", "8.9", "12.0"] {
        assert_eq!(given(capability), wanted, "{capability}");
    }
}
