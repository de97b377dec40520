//! What cannot be done is refused by name, and the worker serves on.

use tessera_proto::internal::{
    LoadRequest, ModelSource, NewCollectiveIdRequest, collective::Transport, model_source::Source, step_failure::Kind,
};
use tonic::Code;

use crate::{
    golden::Golden,
    harness::{Group, Worker, dummy},
};

fn folder(path: &str) -> Option<ModelSource> {
    Some(ModelSource { source: Some(Source::Folder(path.into())) })
}

/// A request that is right but for `change`.
fn wrong(epoch: u64, change: impl FnOnce(&mut LoadRequest)) -> LoadRequest {
    let mut request = Group::shm(1).request(epoch, 0);
    change(&mut request);
    request
}

#[tokio::test]
async fn what_cannot_be_loaded_is_named() {
    let worker = Worker::start("a").await;
    // A shape that no arithmetic was written for must not end the worker.
    let nonsense = r#"{"decoder":{"dim":0,"layers":0,"heads":0,"kv_heads":0,"head_dim":0,"ffn_dim":0,"vocab_size":0,
        "rope_theta":0.0,"norm_eps":0.0,"tied_embeddings":false},"vision":null,"max_context":0}"#;
    let cases = [
        (wrong(1, |r| r.model = folder("/no/such/folder")), Code::NotFound, "/no/such/folder"),
        (wrong(2, |r| r.tp = 3), Code::InvalidArgument, "1, 2, 4 or 8"),
        (wrong(3, |r| r.rank = 1), Code::InvalidArgument, "rank 1"),
        (wrong(4, |r| r.rank = 1 << 20), Code::InvalidArgument, "rank"),
        (wrong(5, |r| r.dtype = "int4".into()), Code::InvalidArgument, "int4"),
        (wrong(5, |r| r.vision_parallel = "batch".into()), Code::InvalidArgument, "vision_parallel"),
        (wrong(6, |r| r.model = None), Code::InvalidArgument, "model"),
        (wrong(7, |r| r.collective = None), Code::InvalidArgument, "collective"),
        (wrong(8, |r| r.model = dummy("{")), Code::InvalidArgument, "model.dummy.model_spec"),
        (wrong(9, |r| r.model = dummy(nonsense)), Code::InvalidArgument, "block"),
        (wrong(10, |r| r.quantization = "int4".into()), Code::InvalidArgument, "`int4` is not fp8"),
        (wrong(11, |r| r.quantization = "fp8".into()), Code::InvalidArgument, "made of bf16"),
        (wrong(12, fp8), Code::InvalidArgument, "quantization: fp8 weights are for `cuda` and `sim` devices"),
        (wrong(12, |r| r.kv_cache_dtype = "int4".into()), Code::InvalidArgument, "kv_cache_dtype: `int4` is not fp8"),
        (
            wrong(12, |r| r.kv_cache_dtype = "fp8".into()),
            Code::InvalidArgument,
            "kv_cache_dtype: keys and values in fp8 are made of bf16",
        ),
        (wrong(13, fp8_cache), Code::InvalidArgument, "kv_cache_dtype: keys and values in fp8 are for `cuda` and `sim` devices"),
    ];
    for (request, code, name) in cases {
        let error = worker.load(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(name), "{name}: {error}");
    }
    assert_eq!(worker.status().await.weight_bytes, 0, "nothing was loaded");
    let mut addresses = Group::tcp(2).request(13, 0);
    addresses.collective.as_mut().unwrap().addresses[1] = "worker-b:7072".into();
    let error = worker.load(addresses).await.unwrap_err();
    assert!(error.message().contains("collective.addresses[1]"), "{error}");
    let mut id = Group::shm(2).request(13, 0);
    let collective = id.collective.as_mut().unwrap();
    collective.set_transport(Transport::Nccl);
    collective.nccl_id = vec![0; 127].into();
    let error = worker.load(id).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("collective.nccl_id: must have 128 bytes, has 127"), "{error}");
    worker.load(Group::shm(1).request(14, 0)).await.unwrap();
}

/// What a worker on a CPU must refuse.
fn fp8(request: &mut LoadRequest) {
    (request.dtype, request.quantization) = ("bf16".into(), "fp8".into());
}

/// And that.
fn fp8_cache(request: &mut LoadRequest) {
    (request.dtype, request.kv_cache_dtype) = ("bf16".into(), "fp8".into());
}

#[tokio::test]
async fn only_a_worker_on_a_gpu_makes_an_id_and_only_for_an_epoch_to_come() {
    let worker = Worker::start("a").await;
    worker.load(Group::shm(1).request(5, 0)).await.unwrap();
    for (epoch, name) in [(5, "epoch 5 is over"), (4, "this worker has seen epoch 5"), (6, "computes on `cpu`")] {
        let error =
            worker.client.clone().new_collective_id(NewCollectiveIdRequest { epoch, ..Default::default() }).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains(name), "{name}: {error}");
    }
    assert_eq!(worker.status().await.epoch, 5, "asking changes nothing");
}

#[tokio::test]
async fn a_plan_that_makes_no_sense_is_answered_with_what_is_wrong_and_ends_the_group() {
    let (worker, golden) = (Worker::start("a").await, Golden::read());
    worker.load(Group::shm(1).request(1, 0)).await.unwrap();
    let mut run = worker.run().await;
    run.send(golden.plan(1, 2)).await;
    let failure = run.failure().await;
    assert_eq!(failure.kind(), Kind::Plan);
    assert!(failure.message.contains("sequence 7"), "{}", failure.message);
    run.send(golden.plan(1, 1)).await;
    assert_eq!(run.failure().await.kind(), Kind::Epoch, "until the next load");
}

#[tokio::test]
async fn a_message_that_is_no_plan_ends_the_run_with_the_field() {
    let (worker, golden) = (Worker::start("a").await, Golden::read());
    worker.load(Group::shm(1).request(1, 0)).await.unwrap();
    let mut run = worker.run().await;
    let mut plan = golden.plan(1, 1);
    plan.start[0].sampling = None;
    run.send(plan).await;
    let error = run.result().await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("sampling"), "{error}");
}

#[tokio::test]
async fn a_plan_without_a_model_is_refused() {
    let worker = Worker::start("a").await;
    let mut run = worker.run().await;
    run.send(Golden::read().plan(1, 1)).await;
    let failure = run.failure().await;
    assert_eq!(failure.kind(), Kind::Epoch);
    assert!(failure.message.contains("in no group"), "{}", failure.message);
}
