//! The forward pass on a GPU, which here is a stand-in that runs the kernels on the CPU.

mod behind;
mod logprobs;
mod made_up;
mod peers;
mod recorded;
mod two;

use tessera_collective::{Collective, CollectiveError, Solo};
use tessera_device::cuda::{CudaConfig, CudaDevice};
use tessera_device::{CacheDtype, Dtype, Formats, Quantization, WeightFormat};
use tessera_model::{CacheConfig, Model, WeightSource, pass_row_bytes};
use tessera_types::{Chunk, Rank, SamplingParams, SequenceId, SequenceStart, ShardPlan, StepOutput, TokenId, VisionParallel};

use crate::cases::{self, Case};
use crate::driver::{Driver, alone, greedy, start};
use crate::golden::{check_bf16, check_near, forced, rms};
use crate::quantised;

/// Blocks of the cache: enough for every case.
const BLOCKS: usize = 600;
const WORKSPACE: usize = 96 << 20;

const BF16: WeightFormat = WeightFormat { dtype: Dtype::Bf16, quantization: None };
const FP8: WeightFormat = WeightFormat { dtype: Dtype::Bf16, quantization: Some(Quantization::Fp8) };
const BF16_CACHE: CacheDtype = CacheDtype::Plain(Dtype::Bf16);
const FP8_CACHE: Formats = Formats { weights: BF16, cache: CacheDtype::Fp8 };
const ALL_FP8: Formats = Formats { weights: FP8, cache: CacheDtype::Fp8 };

fn device(ordinal: usize, format: WeightFormat, records: bool, workspace: usize) -> CudaDevice {
    device_of(&config(ordinal, records, workspace), format)
}

fn config(ordinal: usize, records: bool, workspace: usize) -> CudaConfig {
    CudaConfig {
        ordinal,
        kernels: Some(tessera_test_gpu::kernels()),
        workspace: Some(workspace),
        records,
        overlaps: true,
        peers: true,
    }
}

fn device_of(config: &CudaConfig, format: WeightFormat) -> CudaDevice {
    tessera_test_gpu::open();
    CudaDevice::new(config, format).unwrap()
}

fn model(layout: &str, formats: impl Into<Formats>, records: bool) -> Model<CudaDevice> {
    let Formats { weights, cache } = formats.into();
    let source = WeightSource::open(&cases::fixture(layout)).unwrap();
    model_on(device(0, weights, records, WORKSPACE), &source, cache, Box::new(Solo::default()), VisionParallel::Tensor)
}

fn load(layout: &str, device: CudaDevice, collective: Box<dyn Collective>, parallel: VisionParallel) -> Model<CudaDevice> {
    let source = WeightSource::open(&cases::fixture(layout)).unwrap();
    model_on(device, &source, BF16_CACHE, collective, parallel)
}

fn model_on(
    device: CudaDevice,
    source: &WeightSource,
    dtype: CacheDtype,
    collective: Box<dyn Collective>,
    parallel: VisionParallel,
) -> Model<CudaDevice> {
    let plan = ShardPlan::new(source.spec(), collective.size(), collective.rank()).unwrap().sharing_images(parallel);
    let cache = CacheConfig { blocks: BLOCKS, dtype };
    Model::load(source, plan, device, collective, cache, &mut |_, _| Ok(())).unwrap()
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

/// A stand-in only tells kernels that do not wait for the ones ahead; whether the wait is enough shows on hardware.
#[test]
fn kernels_that_begin_while_the_ones_ahead_end_compute_the_same_bits() {
    let apart = device_of(&CudaConfig { overlaps: false, ..config(0, false, WORKSPACE) }, BF16);
    let mut apart = load("hf", apart, Box::new(Solo::default()), VisionParallel::Tensor);
    let (mut overlapping, mut driver, mut other) = (model("hf", BF16, false), Driver::new(), Driver::new());
    let cases = if tessera_test_gpu::is_real() { cases::all() } else { cases::all().into_iter().take(1).collect() };
    for case in &cases {
        assert!(forced(&mut driver, &mut overlapping, case) == forced(&mut other, &mut apart, case), "{}", case.name);
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

/// Keys and values of 4 bits of precision move logits further than those of 8 do, but not far.
#[test]
fn keys_and_values_in_fp8_stay_near_the_f32_reference_though_not_as_near_as_in_bf16() {
    let (mut narrow, mut wide) = (model("hf", FP8_CACHE, false), model("hf", BF16, false));
    let (mut narrow_driver, mut wide_driver) = (Driver::new(), Driver::new());
    for case in &cases::all() {
        let logits = forced(&mut narrow_driver, &mut narrow, case);
        let (fp8, bf16) = (rms(&logits, &case.step_logits), rms(&forced(&mut wide_driver, &mut wide, case), &case.step_logits));
        println!("{}: {fp8} {bf16} of {}", case.name, rms(&case.step_logits, &vec![0.0; case.step_logits.len()]));
        assert!(2.0 * bf16 < fp8 && fp8 < 0.5, "{}: {fp8} with fp8, {bf16} with bf16", case.name);
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
    let formats = [BF16.into(), FP8.into(), FP8_CACHE, ALL_FP8];
    for (formats, number) in formats.into_iter().flat_map(|formats| [(formats, 0), (formats, 3)]) {
        let (mut model, mut driver) = (model("hf", formats, false), Driver::new());
        let case = &cases::all()[number];
        let whole = forced(&mut driver, &mut model, case);
        let vocab = case.prefill_logits.len();
        for most in [usize::MAX, 7, 1] {
            let stepped = by_steps(&mut driver, &mut model, case, most);
            let same = stepped.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(stepped.len() == 6 * vocab && same, "{formats:?}, {}, chunks of {most}", case.name);
        }
    }
}

/// Runs a prompt in one chunk with so many bytes for it to compute with.
fn in_workspace(tokens: usize, bytes: usize) -> Result<(), String> {
    let source = WeightSource::open(&cases::fixture("hf")).unwrap();
    // An eighth of it is for recorded passes.
    let device = device(0, BF16, false, bytes.div_ceil(7) * 8);
    let mut model = model_on(device, &source, BF16_CACHE, Box::new(Solo::default()), VisionParallel::Tensor);
    let prompt: Vec<_> = (0..tokens as u32).map(|n| TokenId(20 + n % 50)).collect();
    let mut driver = Driver::new();
    driver.start(SequenceStart {
        sequence: SequenceId(1),
        prompt_len: prompt.len() as u32,
        tokens: prompt,
        images: Vec::new(),
        sampling: SamplingParams::default(),
    });
    driver.chunk(1, tokens);
    model.step(&driver.plan).map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_pass_takes_what_is_known_of_its_rows_before_and_less_than_as_much_again() {
    let spec = WeightSource::open(&cases::fixture("hf")).unwrap().spec().clone();
    let row = pass_row_bytes(&spec, &ShardPlan::new(&spec, 1, Rank(0)).unwrap(), 2);
    assert_eq!(in_workspace(192, 2 * 192 * row), Ok(()));
    let error = in_workspace(192, 191 * row).unwrap_err();
    assert!(error.contains("a workspace of"), "{error}");
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
    for formats in [BF16.into(), FP8.into(), FP8_CACHE] {
        let wanted = chosen(&mut model("hf", formats, false), true);
        let mut recording = model("hf", formats, true);
        assert_eq!(chosen(&mut recording, false), wanted, "{formats:?}");
        assert!(recording.recorded_passes() > 0, "no pass was recorded");
    }
}

/// Ten tokens of two sequences, whose steps are each begun before the last one has ended; the second sequence is ended while
/// its last token is still to come.
fn chosen_ahead(records: bool) -> Vec<(SequenceId, TokenId)> {
    let (mut model, mut driver, case) = (model("hf", BF16, records), Driver::new(), &cases::all()[0]);
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
    let (mut model, mut driver, case) = (model("hf", BF16, false), Driver::new(), &cases::all()[0]);
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
    let (mut model, mut driver, case) = (model("hf", BF16, false), Driver::new(), &cases::all()[0]);
    let [plain, _, penalised] = ways();
    let mut described = plain.clone();
    described.logprobs.generated = Some(0);
    for (id, sampling) in (1..).zip([plain, penalised, described]) {
        driver.start(start(id, case, sampling));
        driver.chunk(id, usize::MAX);
    }
    assert_eq!(model.begin(&driver.take()).unwrap(), None);
    let followed = |model: &Model<CudaDevice>| {
        [1, 2, 3].map(|id| {
            let mut driver = Driver::at(3);
            driver.plan.chunks = vec![Chunk { sequence: SequenceId(id), start: 0, len: 1, new_blocks: Vec::new(), sample: true }];
            model.is_followed_by(&driver.take())
        })
    };
    assert_eq!(followed(&model), [true, false, true]);
    model.end().unwrap();
    assert_eq!(followed(&model), [true; 3]);
}

/// Also what `on_devices_of_other_capabilities_too` asks processes of other devices; they print what the device gave.
#[test]
fn the_first_case_is_near_the_reference() {
    let (mut model, mut driver, case) = (model("hf", BF16, true), Driver::new(), &cases::all()[0]);
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
