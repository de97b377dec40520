//! The forward pass on a GPU, which here is a stand-in that runs the kernels on the CPU.

use std::process::Command;
use std::time::Duration;

use tessera_collective::{Collective, CollectiveError, GroupConfig, Solo, Transport};
use tessera_device::cuda::{CudaConfig, CudaDevice};
use tessera_device::{Device, Dtype, Quantization, Rows, Spans, WeightFormat};
use tessera_model::checkpoint::{Loadable, SliceBytes, TensorSlice};
use tessera_model::{CacheConfig, Model, ModelError, WeightSource, pass_row_bytes};
use tessera_types::{
    Chunk, Epoch, ModelSpec, Rank, SamplingParams, SequenceId, SequenceStart, ShardPlan, StepOutput, TokenId, VisionParallel,
};

use crate::cases::{self, Case};
use crate::driver::{Driver, alone, greedy, start};
use crate::golden::{check_bf16, check_near, forced, rms};
use crate::quantised;

/// Blocks of the cache: enough for every case.
const BLOCKS: usize = 600;
const WORKSPACE: usize = 96 << 20;

const BF16: WeightFormat = WeightFormat { dtype: Dtype::Bf16, quantization: None };
const FP8: WeightFormat = WeightFormat { dtype: Dtype::Bf16, quantization: Some(Quantization::Fp8) };

fn device(ordinal: usize, format: WeightFormat, records: bool, workspace: usize) -> CudaDevice {
    tessera_test_gpu::open();
    let kernels = Some(tessera_test_gpu::kernels());
    CudaDevice::new(&CudaConfig { ordinal, kernels, workspace: Some(workspace), records }, format).unwrap()
}

fn model(layout: &str, format: WeightFormat, records: bool) -> Model<CudaDevice> {
    load(layout, device(0, format, records, WORKSPACE), Box::new(Solo::default()), VisionParallel::Tensor)
}

fn load(layout: &str, device: CudaDevice, collective: Box<dyn Collective>, parallel: VisionParallel) -> Model<CudaDevice> {
    let source = WeightSource::open(&cases::fixture(layout)).unwrap();
    model_on(device, &source, collective, parallel)
}

fn model_on(
    device: CudaDevice,
    source: &WeightSource,
    collective: Box<dyn Collective>,
    parallel: VisionParallel,
) -> Model<CudaDevice> {
    let plan = ShardPlan::new(source.spec(), collective.size(), collective.rank()).unwrap().sharing_images(parallel);
    let cache = CacheConfig { blocks: BLOCKS, dtype: Dtype::Bf16 };
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

/// Runs a prompt in one chunk with so many bytes for it to compute with.
fn in_workspace(tokens: usize, bytes: usize) -> Result<(), String> {
    let source = WeightSource::open(&cases::fixture("hf")).unwrap();
    // An eighth of it is for recorded passes.
    let mut model =
        model_on(device(0, BF16, false, bytes.div_ceil(7) * 8), &source, Box::new(Solo::default()), VisionParallel::Tensor);
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
    for format in [BF16, FP8] {
        let wanted = chosen(&mut model("hf", format, false), true);
        let mut recording = model("hf", format, true);
        assert_eq!(chosen(&mut recording, false), wanted, "{format:?}");
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

/// Numbers of slices as the host makes them, the last row of each repeated until there are `rows`.
fn by_host(source: &WeightSource, slice: &TensorSlice, rows: usize) -> Vec<f32> {
    let SliceBytes { bytes, columns, order, .. } = source.read(slice).unwrap();
    let number = |bytes: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
    let mut numbers: Vec<f32> = bytes.chunks_exact(2).map(number).collect();
    let last = numbers[(order.len() - 1) * columns..].to_vec();
    (order.len()..rows).for_each(|_| numbers.extend(&last));
    numbers
}

fn by_device(source: &WeightSource, slice: &TensorSlice, rows: usize) -> Loadable {
    source.load::<ModelError>(slice, &mut |_| Ok(())).unwrap().padded(rows)
}

#[track_caller]
fn same_bits(got: &[f32], wanted: &[f32]) {
    assert_eq!(got.len(), wanted.len());
    let differs = got.iter().zip(wanted).position(|(got, wanted)| got.to_bits() != wanted.to_bits());
    assert_eq!(differs, None, "the first number that differs");
}

#[test]
fn made_up_matrices_have_the_bits_that_the_host_would_make() {
    let (mut device, source) = (device(0, BF16, false, WORKSPACE), WeightSource::dummy(ModelSpec::bench_1b(), 11));
    let slice = |name: &str| TensorSlice::matrix(name, &[300, 96]);
    // Whole rows, a slice from a column that begins a hash and from one that does not; stacked; padded; a single row.
    for (slices, rows) in [
        (vec![slice("layers.0.attention.wq.weight"), slice("layers.0.attention.wk.weight").rows(40..57)], 0),
        (vec![slice("layers.1.feed_forward.w2.weight").columns(32..72)], 0),
        (vec![slice("layers.1.feed_forward.w2.weight").rows(100..164).columns(5..29)], 0),
        (vec![slice("output.weight").rows(290..300)], 13),
        (vec![slice("output.weight").rows(299..300)], 2),
    ] {
        let inner = slices[0].columns.len();
        let wanted: Vec<f32> = slices.iter().flat_map(|slice| by_host(&source, slice, rows)).collect();
        let loadables: Vec<_> = slices.iter().map(|slice| by_device(&source, slice, rows)).collect();
        let sources: Vec<_> = loadables.iter().map(Loadable::source).collect();
        let matrix = device.load_matrix(&sources, &[0, inner]).unwrap();
        // Rows of ones in one place each pick out the weight's columns exactly.
        let mut x = device.working(inner, inner).unwrap();
        let identity: Vec<f32> = (0..inner * inner).map(|i| f32::from(i % (inner + 1) == 0)).collect();
        device.write(&mut x, &identity).unwrap();
        let features = wanted.len() / inner;
        let mut out = device.tensor(inner, features).unwrap();
        device.matmul(&x, &matrix, &mut out).unwrap();
        let columns = device.read(&out).unwrap();
        let got: Vec<f32> = (0..features * inner).map(|i| columns[i % inner * features + i / inner]).collect();
        same_bits(&got, &wanted);
    }
}

#[test]
fn made_up_rows_to_look_up_have_the_bits_that_the_host_would_make() {
    let (mut device, source) = (device(0, BF16, false, WORKSPACE), WeightSource::dummy(ModelSpec::bench_1b(), 11));
    let slice = TensorSlice::matrix("tok_embeddings.weight", &[1000, 104]).rows(500..571);
    let table = device.load_table(&by_device(&source, &slice, 0).source()).unwrap();
    let tokens: Vec<_> = (500..571).map(|token| Some(TokenId(token))).collect();
    let (positions, image) = (vec![0; tokens.len()], 0..tokens.len());
    let spans = Spans::Images(std::slice::from_ref(&image));
    let rows = device.place(Rows { tokens: &tokens, positions: &positions, spans }).unwrap();
    let mut out = device.tensor(tokens.len(), 104).unwrap();
    device.embed(&table, 500, &rows, &mut out).unwrap();
    same_bits(&device.read(&out).unwrap(), &by_host(&source, &slice, 0));
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
                let device = device(rank, BF16, false, WORKSPACE);
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
    let alone = features(&mut model("mistral", BF16, false));
    for features in two_gpus("mistral", VisionParallel::Image, features) {
        assert!(features.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "one rank's own sums, on any number");
    }
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    for features in two_gpus("mistral", VisionParallel::Tensor, features) {
        let apart = norm(&mut features.iter().zip(&alone).map(|(a, b)| a - b)) / norm(&mut alone.iter().copied());
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
