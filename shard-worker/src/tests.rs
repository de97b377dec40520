//! Workers over real gRPC, driven by hand with the tiny checkpoint.

use std::path::PathBuf;

use tessera_proto::internal::{
    self as wire, Collective, LoadRequest, ModelSource, StepResult, load_event::Event, shard_worker_client::ShardWorkerClient,
};
use tessera_types::{BlockId, Chunk, Epoch, SamplingParams, SequenceId, SequenceStart, StepId, StepPlan, TokenId};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming, transport::Channel};

use crate::{Config, ShardWorker};


fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-random")
}

/// The golden prompt and its greedy tokens.
fn golden() -> (Vec<TokenId>, Vec<u32>) {
    let text = std::fs::read_to_string(fixture().join("golden/text_short.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |key: &str| facts[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>();
    (ids("ids").into_iter().map(TokenId).collect(), ids("greedy"))
}

async fn worker(id: &str, stop: &CancellationToken) -> ShardWorkerClient<Channel> {
    let config = Config {
        id: id.into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        host: "here".into(),
        threads: 1,
        kv_memory: 8 << 20,
        lease: std::time::Duration::from_secs(2),
        grace: std::time::Duration::from_secs(1),
    };
    let worker = ShardWorker::bind(config).await.unwrap();
    let address = worker.address();
    tokio::spawn(worker.run(None, stop.clone()));
    ShardWorkerClient::connect(format!("http://{address}")).await.unwrap()
}

fn request(epoch: u64, rank: u32, tp: u32) -> LoadRequest {
    let folder = fixture().join("mistral").display().to_string();
    LoadRequest {
        epoch,
        rank,
        tp,
        model: Some(ModelSource { source: Some(wire::model_source::Source::Folder(folder)) }),
        dtype: "f32".into(),
        kv_blocks: 0,
        max_context: 0,
        collective: Some(Collective {
            transport: wire::collective::Transport::Shm.into(),
            group: format!("worker-test-{}", std::process::id()),
            addresses: vec![],
            deadline_ms: 20_000,
        }),
    }
}

async fn load(client: &mut ShardWorkerClient<Channel>, request: LoadRequest) -> Result<wire::Loaded, tonic::Status> {
    let mut events = client.load(request).await?.into_inner();
    while let Some(message) = events.message().await? {
        if let Some(Event::Loaded(loaded)) = message.event {
            return Ok(loaded);
        }
    }
    panic!("loading ended without a result")
}

/// Plans in, results out.
async fn run(client: &mut ShardWorkerClient<Channel>) -> (mpsc::Sender<wire::StepPlan>, Streaming<StepResult>) {
    let (plans, received) = mpsc::channel(4);
    (plans, client.run(ReceiverStream::new(received)).await.unwrap().into_inner())
}

/// The prompt at once, then one token a step.
fn plan(epoch: u64, step: u64, prompt: &[TokenId]) -> wire::StepPlan {
    let first = step == 1;
    let len = prompt.len() as u32;
    let sampling = SamplingParams { temperature: 0.0, stop_tokens: vec![], ..Default::default() };
    let start =
        SequenceStart { sequence: SequenceId(7), tokens: prompt.to_vec(), prompt_len: len, images: vec![], sampling };
    StepPlan {
        epoch: Epoch(epoch),
        step: StepId(step),
        end: vec![],
        forget_images: vec![],
        start: if first { vec![start] } else { vec![] },
        encode: vec![],
        chunks: vec![Chunk {
            sequence: SequenceId(7),
            start: if first { 0 } else { len + step as u32 - 2 },
            len: if first { len } else { 1 },
            new_blocks: if first { vec![BlockId(3), BlockId(5)] } else { vec![] },
            sample: true,
        }],
    }
    .into()
}

#[tokio::test]
async fn two_workers_give_the_golden_tokens_with_plans_sent_ahead() {
    let stop = CancellationToken::new();
    let (mut a, mut b) = (worker("a", &stop).await, worker("b", &stop).await);
    let (first, second) = tokio::join!(load(&mut a, request(3, 0, 2)), load(&mut b, request(3, 1, 2)));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.model_spec, second.model_spec);
    assert!(first.bytes_read > 0 && first.bytes_read < 14_319_960 * 6 / 10, "a rank read {} bytes", first.bytes_read);
    let ((plans_a, mut results_a), (plans_b, mut results_b)) = tokio::join!(run(&mut a), run(&mut b));
    let (prompt, greedy) = golden();
    for step in 1..=8 {
        // All of them before the first answer: ranks feed themselves.
        let plan = plan(3, step, &prompt);
        plans_a.send(plan.clone()).await.unwrap();
        plans_b.send(plan).await.unwrap();
        if step <= 2 {
            continue;
        }
        let result = results_a.next().await.unwrap().unwrap();
        assert_eq!(result.failure, None);
        assert_eq!(result.output.unwrap().sampled[0].token, greedy[step as usize - 3]);
        let silent = results_b.next().await.unwrap().unwrap();
        assert_eq!((silent.failure, silent.output), (None, None), "only rank 0 speaks");
    }
    stop.cancel();
}

#[tokio::test]
async fn an_old_epoch_is_refused_and_a_new_one_keeps_the_weights() {
    let stop = CancellationToken::new();
    let mut client = worker("a", &stop).await;
    load(&mut client, request(5, 0, 1)).await.unwrap();
    assert_eq!(load(&mut client, request(5, 0, 1)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(load(&mut client, request(4, 0, 1)).await.unwrap_err().code(), Code::FailedPrecondition);
    let (plans, mut results) = run(&mut client).await;
    let (prompt, greedy) = golden();
    plans.send(plan(4, 1, &prompt)).await.unwrap();
    let failure = results.next().await.unwrap().unwrap().failure.unwrap();
    assert_eq!(failure.kind(), wire::step_failure::Kind::Epoch);
    let again = load(&mut client, request(6, 0, 1)).await.unwrap();
    assert_eq!(again.bytes_read, 0, "the weights were there");
    let (plans, mut results) = run(&mut client).await;
    plans.send(plan(6, 1, &prompt)).await.unwrap();
    assert_eq!(results.next().await.unwrap().unwrap().output.unwrap().sampled[0].token, greedy[0]);
    stop.cancel();
}

#[tokio::test]
async fn a_plan_that_makes_no_sense_is_answered_with_what_is_wrong() {
    let stop = CancellationToken::new();
    let mut client = worker("a", &stop).await;
    load(&mut client, request(1, 0, 1)).await.unwrap();
    let (plans, mut results) = run(&mut client).await;
    plans.send(plan(1, 2, &golden().0)).await.unwrap();
    let failure = results.next().await.unwrap().unwrap().failure.unwrap();
    assert_eq!(failure.kind(), wire::step_failure::Kind::Plan);
    assert!(failure.message.contains("sequence 7"), "{}", failure.message);
    stop.cancel();
}

#[tokio::test]
async fn what_cannot_be_loaded_is_named() {
    let stop = CancellationToken::new();
    let mut client = worker("a", &stop).await;
    let mut nowhere = request(1, 0, 1);
    nowhere.model = Some(ModelSource { source: Some(wire::model_source::Source::Folder("/no/such/folder".into())) });
    let error = load(&mut client, nowhere).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("/no/such/folder"), "{error}");
    let error = load(&mut client, request(2, 0, 3)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("1, 2, 4 or 8"), "{error}");
    stop.cancel();
}
