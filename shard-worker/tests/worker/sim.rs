//! Workers that compute nothing: what they load, answer and refuse.

use tessera_proto::internal::{self as wire, LoadRequest, ModelSource, model_source::Source, step_failure::Kind};
use tessera_registry::{MemoryStore, Registry};
use tessera_shard_worker::DeviceConfig;
use tessera_types::{
    BlockId, Chunk, Epoch, Grid, ImageEncode, ImageKey, Logprobs, ModelSpec, PlacedImage, SamplingParams, SequenceId,
    SequenceStart, StepId, StepPlan, TokenId,
};

use crate::harness::{Group, Run, Worker, dummy, fixture, until};

const SEQUENCE: SequenceId = SequenceId(7);

async fn worker(accelerator: &str, id: &str) -> Worker {
    let device = DeviceConfig::Sim { accelerator: accelerator.parse().unwrap(), kv_memory: None };
    Worker::start_on(device, id, None).await
}

/// Pixtral-12B in bf16, which no test machine could load.
fn pixtral(tp: u32, epoch: u64, rank: u32) -> LoadRequest {
    let model = dummy(&serde_json::to_string(&ModelSpec::pixtral_12b()).unwrap());
    LoadRequest { model, dtype: "bf16".into(), ..Group::shm(tp).request(epoch, rank) }
}

fn start(tokens: &[u32], prompt_len: usize) -> SequenceStart {
    SequenceStart {
        sequence: SEQUENCE,
        tokens: tokens.iter().copied().map(TokenId).collect(),
        prompt_len: prompt_len as u32,
        images: vec![],
        sampling: SamplingParams { temperature: 1.0, seed: 11, ..Default::default() },
    }
}

fn plan(epoch: u64, step: u64) -> StepPlan {
    StepPlan {
        epoch: Epoch(epoch),
        step: StepId(step),
        end: vec![],
        forget_images: vec![],
        start: vec![],
        encode: vec![],
        chunks: vec![],
    }
}

/// A chunk with more blocks than it needs, so that later ones need none.
fn chunk(start: usize, len: usize, sample: bool) -> Chunk {
    let new_blocks = if start == 0 { (0..64).map(BlockId).collect() } else { vec![] };
    Chunk { sequence: SEQUENCE, start: start as u32, len: len as u32, new_blocks, sample }
}

/// Runs a sequence until it has `total` tokens, its first ones in chunks of `chunk_len`; rank 0's tokens.
async fn run(runs: &mut [Run], epoch: u64, tokens: &[u32], prompt_len: usize, chunk_len: usize, total: usize) -> Vec<u32> {
    let (mut at, mut step, mut got) = (0, 0, Vec::new());
    while tokens.len() + got.len() < total {
        let known = tokens.len() + got.len();
        let len = chunk_len.min(known - at);
        step += 1;
        let begins = if at == 0 { vec![start(tokens, prompt_len)] } else { vec![] };
        let plan = StepPlan { start: begins, chunks: vec![chunk(at, len, at + len == known)], ..plan(epoch, step) };
        for run in runs.iter() {
            run.send(plan.clone().into()).await;
        }
        at += len;
        for (rank, run) in runs.iter_mut().enumerate() {
            let result = run.result().await.unwrap();
            assert_eq!(result.failure, None);
            assert_eq!(result.output.is_some(), rank == 0, "rank 0 alone answers");
            got.extend(result.output.iter().flat_map(|output| output.sampled.iter().map(|sampled| sampled.token)));
        }
    }
    got
}

#[tokio::test]
async fn the_same_tokens_come_after_a_replay_at_another_degree_in_other_chunks() {
    let prompt: Vec<u32> = (0..100).map(|i| 1000 + 37 * i).collect();
    let one = worker("h100*0", "one").await;
    one.load(pixtral(1, 1, 0)).await.unwrap();
    let expected = run(&mut [one.run().await], 1, &prompt, 100, 512, 124).await;
    assert_eq!(expected.len(), 24);

    let (a, b) = (worker("h100*0", "a").await, worker("h100*0", "b").await);
    let loaded = tokio::join!(a.load(pixtral(2, 5, 0)), b.load(pixtral(2, 5, 1)));
    assert!(loaded.0.is_ok() && loaded.1.is_ok());
    let replayed: Vec<u32> = prompt.iter().chain(&expected[..7]).copied().collect();
    let mut runs = [a.run().await, b.run().await];
    assert_eq!(run(&mut runs, 5, &replayed, 100, 30, 124).await, expected[7..]);

    let mut other = prompt.clone();
    other[0] += 1;
    one.load(pixtral(1, 2, 0)).await.unwrap();
    let others = run(&mut [one.run().await], 2, &other, 100, 512, 124).await;
    assert_ne!(others, expected, "the first token of the prompt counts too");
}

#[tokio::test]
async fn nothing_is_read_and_the_cache_has_what_an_h100_has_left() {
    let registry = Registry::new(MemoryStore::new());
    let device = DeviceConfig::Sim { accelerator: "h100".parse().unwrap(), kv_memory: None };
    let worker = Worker::start_on(device, "w1", Some(registry.clone())).await;
    let loaded = worker.load(pixtral(1, 1, 0)).await.unwrap();
    assert_eq!((loaded.bytes_read, loaded.weight_bytes), (0, 2 * 12_682_739_712));
    // Nine tenths of 80 GB, less the weights, at 160 KiB a token and 16 tokens a block.
    assert_eq!(u64::from(loaded.kv_blocks), (72_000_000_000 - 2 * 12_682_739_712) / (16 * 160 * 1024));
    assert_eq!(loaded.step_tokens, 8192, "GPUs have prompts in large chunks");
    assert_eq!(worker.status().await.device, "sim:h100");
    let record = async || registry.members().await.unwrap().1.workers.remove("w1");
    until("it is registered", async || record().await.is_some()).await;
    let record = record().await.unwrap();
    assert_eq!((record.device.as_str(), record.memory_bytes), ("sim:h100", 80_000_000_000));

    let mut much = pixtral(1, 2, 0);
    much.kv_blocks = loaded.kv_blocks + 1;
    assert!(worker.load(much).await.unwrap_err().message().contains("kv_blocks"));
}

#[tokio::test]
async fn weights_in_fp8_leave_their_room_to_the_cache_and_are_others() {
    let worker = worker("h100", "a").await;
    let wide = worker.load(pixtral(1, 1, 0)).await.unwrap();
    let fp8 = |epoch| LoadRequest { quantization: "fp8".into(), ..pixtral(1, epoch, 0) };
    let narrow = worker.load(fp8(2)).await.unwrap();
    // Of each layer a byte off 272,629,760 weights, and 4 for each of its 45,056 outputs.
    let saved = 40 * (272_629_760 - 4 * 45_056);
    assert_eq!(wide.weight_bytes - narrow.weight_bytes, saved);
    assert_eq!(u64::from(narrow.kv_blocks), (72_000_000_000 - narrow.weight_bytes) / (16 * 160 * 1024));
    assert_eq!(worker.status().await.weight_bytes, narrow.weight_bytes, "what was held does not fit");
}

#[tokio::test]
async fn a_cache_in_fp8_has_nearly_twice_the_blocks_and_is_another() {
    let worker = worker("h100", "a").await;
    let wide = worker.load(pixtral(1, 1, 0)).await.unwrap();
    let fp8 = |epoch| LoadRequest { kv_cache_dtype: "fp8".into(), ..pixtral(1, epoch, 0) };
    let narrow = worker.load(fp8(2)).await.unwrap();
    assert_eq!(narrow.weight_bytes, wide.weight_bytes);
    // Of 40 layers and 8 heads, a token's keys and values are 128 bytes each and a scale of 4.
    let block = 16 * 2 * 40 * 8 * (128 + 4);
    assert_eq!(u64::from(narrow.kv_blocks), (72_000_000_000 - narrow.weight_bytes) / block);
    assert!(f64::from(narrow.kv_blocks) > 1.93 * f64::from(wide.kv_blocks));
    assert_eq!(worker.load(pixtral(1, 3, 0)).await.unwrap().kv_blocks, wide.kv_blocks);
}

#[tokio::test]
async fn a_folder_needs_its_configuration_and_no_weights() {
    let worker = worker("h100*0", "a").await;
    let folder = tempfile::tempdir().unwrap();
    let request = |epoch| {
        let source = Source::Folder(folder.path().display().to_string());
        LoadRequest { model: Some(ModelSource { source: Some(source) }), ..Group::shm(1).request(epoch, 0) }
    };
    assert_eq!(worker.load(request(1)).await.unwrap_err().code(), tonic::Code::NotFound);
    std::fs::copy(fixture("mistral/params.json"), folder.path().join("params.json")).unwrap();
    let shape = |loaded: wire::Loaded| serde_json::from_str::<ModelSpec>(&loaded.model_spec).unwrap();
    let alone = shape(worker.load(request(2)).await.unwrap());
    let whole = Worker::start("cpu").await;
    assert_eq!(alone, shape(whole.load(Group::shm(1).request(1, 0)).await.unwrap()));
}

#[tokio::test]
async fn plans_that_make_no_sense_are_refused_as_by_any_worker() {
    let worker = worker("h100*0", "a").await;
    let begin = |tokens: &[u32], chunk| StepPlan { start: vec![start(tokens, 3)], chunks: vec![chunk], ..plan(0, 1) };
    let short = Chunk { new_blocks: vec![], ..chunk(0, 3, true) };
    let image = PlacedImage { key: ImageKey([1; 32]), at: 0, grid: Grid { rows: 1, cols: 1 } };
    let mut unseen = begin(&[5, 6, 7], chunk(0, 3, true));
    unseen.start[0].images.push(image);
    let cases = [
        (StepPlan { chunks: vec![chunk(0, 3, true)], ..plan(0, 1) }, "was not started"),
        (begin(&[5, 6, 131_072], chunk(0, 3, true)), "token 131072 is outside"),
        (begin(&[5, 6, 7], chunk(0, 4, true)), "3 are known"),
        (begin(&[5, 6, 7], chunk(0, 2, true)), "cannot sample"),
        (begin(&[5, 6, 7], short), "1 blocks are needed, the plan gives 0"),
        (begin(&[5, 6, 7], Chunk { new_blocks: vec![BlockId(1 << 30)], ..chunk(0, 3, true) }), "outside a cache"),
        (unseen, "was not encoded"),
    ];
    for (epoch, (plan, problem)) in (1..).zip(cases) {
        worker.load(pixtral(1, epoch, 0)).await.unwrap();
        let mut run = worker.run().await;
        run.send(StepPlan { epoch: Epoch(epoch), ..plan }.into()).await;
        let failure = run.failure().await;
        assert_eq!(failure.kind(), Kind::Plan);
        assert!(failure.message.contains(problem), "{problem}: {}", failure.message);
    }
}

#[tokio::test]
async fn images_take_their_place_and_log_probabilities_are_numbers() {
    let worker = worker("h100*0", "a").await;
    worker.load(pixtral(1, 1, 0)).await.unwrap();
    let grid = Grid { rows: 1, cols: 2 };
    let tokens = [1, 3, 10, 10, 13, 2000, 4];
    let token_behind = async |epoch: u64, key: ImageKey| {
        let mut begin = start(&tokens, tokens.len());
        begin.images = vec![PlacedImage { key, at: 2, grid }];
        begin.sampling.logprobs = Logprobs { generated: Some(20), prompt: Some(5) };
        let encode = ImageEncode { key, grid, pixels: vec![0; 2 * 3 * 16 * 16 * 4].into() };
        let chunks = vec![chunk(0, tokens.len(), true)];
        worker.load(pixtral(1, epoch, 0)).await.unwrap();
        let mut run = worker.run().await;
        run.send(StepPlan { start: vec![begin], encode: vec![encode], chunks, ..plan(epoch, 1) }.into()).await;
        let result = run.result().await.unwrap();
        assert_eq!(result.failure, None);
        result.output.unwrap()
    };
    let output = token_behind(2, ImageKey([1; 32])).await;
    let generated = output.sampled[0].logprob.as_ref().unwrap();
    assert_eq!((generated.token, generated.top_tokens.len()), (output.sampled[0].token, 20));
    let prompt = &output.prompt_logprobs[0];
    assert_eq!((prompt.start, prompt.tokens.len()), (1, tokens.len() - 1));
    let all = prompt.tokens.iter().chain([generated]);
    let mut logprobs = all.flat_map(|token| token.top_logprobs.iter().chain([&token.logprob]));
    assert!(logprobs.all(|logprob| *logprob < 0.0 && logprob.is_finite()));
    assert_eq!(output, token_behind(3, ImageKey([1; 32])).await);
    assert_ne!(output.sampled, token_behind(4, ImageKey([2; 32])).await.sampled, "the picture counts");
}

#[tokio::test]
async fn a_release_ends_a_step_that_would_take_hours() {
    let worker = worker("h100*1000000", "a").await;
    worker.load(pixtral(1, 1, 0)).await.unwrap();
    let mut run = worker.run().await;
    let begin = StepPlan { start: vec![start(&[5, 6, 7], 3)], chunks: vec![chunk(0, 3, true)], ..plan(1, 1) };
    run.send(begin.into()).await;
    worker.release(1).await;
    let failure = run.failure().await;
    assert!(matches!(failure.kind(), Kind::Collective | Kind::Epoch), "{failure:?}");
    worker.load(pixtral(1, 2, 0)).await.unwrap();
}
