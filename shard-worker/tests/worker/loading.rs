//! What loading reads, holds and reports.

use tessera_proto::internal::{LoadRequest, ModelSource, model_source::Source};
use tessera_types::ModelSpec;

use crate::harness::{Group, KV_MEMORY, Worker, dummy, fixture};

#[tokio::test]
async fn a_rank_reads_about_half_of_what_two_ranks_share() {
    let (a, b, group) = (Worker::start("a").await, Worker::start("b").await, Group::shm(2));
    let file = std::fs::metadata(fixture("mistral/consolidated.safetensors")).unwrap().len();
    for loaded in group.load([&a, &b], 1).await {
        let share = loaded.bytes_read as f64 / file as f64;
        assert!((0.49..0.56).contains(&share), "a rank read {share:.2} of the file");
    }
}

#[tokio::test]
async fn progress_only_grows_and_ends_with_what_was_read() {
    let (worker, group) = (Worker::start("a").await, Group::shm(1));
    let (progress, loaded) = worker.load_events(group.request(1, 0)).await.unwrap();
    assert!(progress.is_sorted(), "{progress:?}");
    assert!(progress.iter().all(|&(done, total)| done <= total && total == loaded.bytes_read), "{progress:?}");
    let (progress, _) = worker.load_events(group.request(2, 0)).await.unwrap();
    assert_eq!(progress, [], "weights that are held are not read again");
}

#[tokio::test]
async fn the_cache_fills_the_memory_given_or_has_the_blocks_asked_for() {
    let (worker, group) = (Worker::start("a").await, Group::shm(1));
    let loaded = worker.load(group.request(1, 0)).await.unwrap();
    let spec: ModelSpec = serde_json::from_str(&loaded.model_spec).unwrap();
    let d = &spec.decoder;
    // Keys and values, 16 tokens, 4 bytes.
    let block = (2 * d.layers * d.kv_heads * d.head_dim * 16 * 4) as u64;
    assert_eq!(u64::from(loaded.kv_blocks), KV_MEMORY / block);
    let mut fewer = group.request(2, 0);
    fewer.kv_blocks = 7;
    assert_eq!(worker.load(fewer).await.unwrap().kv_blocks, 7);
    let mut more = group.request(3, 0);
    more.kv_blocks = loaded.kv_blocks + 1;
    let error = worker.load(more).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("kv_blocks") && error.message().contains(&KV_MEMORY.to_string()), "{error}");
}

#[tokio::test]
async fn bf16_holds_half_the_bytes_and_twice_the_blocks() {
    let (worker, group) = (Worker::start("a").await, Group::shm(1));
    let full = worker.load(group.request(1, 0)).await.unwrap();
    let mut half = group.request(2, 0);
    half.dtype = "bf16".into();
    let half = worker.load(half).await.unwrap();
    assert_eq!((half.weight_bytes * 2, half.kv_blocks), (full.weight_bytes, full.kv_blocks * 2));
    assert!(half.bytes_read > 0, "other weights are read");
}

#[tokio::test]
async fn ranks_that_encode_by_image_hold_the_whole_encoder_and_ranks_that_choose_their_slice_too() {
    let (a, b, group) = (Worker::start("a").await, Worker::start("b").await, Group::shm(2));
    let load = async |epoch, parallel: &str| {
        let request = |rank| LoadRequest { vision_parallel: parallel.into(), ..group.request(epoch, rank) };
        let (first, second) = tokio::join!(a.load(request(0)), b.load(request(1)));
        assert_eq!(first.as_ref().unwrap().weight_bytes, second.unwrap().weight_bytes);
        first.unwrap()
    };
    let (tensor, image, auto) = (load(1, "tensor").await, load(2, "image").await, load(3, "auto").await);
    assert!(image.bytes_read > tensor.bytes_read && auto.bytes_read > image.bytes_read, "other weights are read");
    let spec: ModelSpec = serde_json::from_str(&tensor.model_spec).unwrap();
    let whole = 4 * (spec.vision_parameters() + spec.adapter_parameters()) as u64;
    assert_eq!(auto.weight_bytes - tensor.weight_bytes, whole);
    let slice = auto.weight_bytes - image.weight_bytes;
    assert!(slice > whole / 2 && slice < whole * 6 / 10, "{slice} of {whole} bytes");
    assert_eq!(load(4, "auto").await.bytes_read, 0, "held");
}

#[tokio::test]
async fn a_shape_without_weights_is_loaded_from_nothing() {
    let worker = Worker::start("a").await;
    let mut spec = ModelSpec::bench_1b();
    (spec.decoder.layers, spec.decoder.dim, spec.decoder.vocab_size, spec.decoder.ffn_dim) = (1, 64, 100, 64);
    let mut request = Group::shm(1).request(1, 0);
    request.model = dummy(&serde_json::to_string(&spec).unwrap());
    let loaded = worker.load(request).await.unwrap();
    assert_eq!((loaded.bytes_read, loaded.step_tokens), (0, 512));
    assert_eq!(serde_json::from_str::<ModelSpec>(&loaded.model_spec).unwrap(), spec);
}

#[tokio::test]
async fn heads_that_are_no_whole_vectors_count_with_what_the_cache_pads() {
    let worker = Worker::start("a").await;
    let mut spec = ModelSpec::bench_1b();
    (spec.decoder.layers, spec.decoder.dim, spec.decoder.vocab_size, spec.decoder.ffn_dim) = (2, 64, 100, 64);
    (spec.decoder.heads, spec.decoder.kv_heads, spec.decoder.head_dim) = (2, 2, 72);
    let mut request = Group::shm(1).request(1, 0);
    request.model = dummy(&serde_json::to_string(&spec).unwrap());
    // Keys and values, 2 layers, 2 heads of 72 in 80, 16 tokens, 4 bytes.
    let block = 2 * 2 * 2 * 80 * 16 * 4;
    assert_eq!(u64::from(worker.load(request).await.unwrap().kv_blocks), KV_MEMORY / block);
}

#[tokio::test]
async fn a_checkpoint_that_was_replaced_in_its_place_is_read_again() {
    let (worker, group, folder) = (Worker::start("a").await, Group::shm(1), tempfile::tempdir().unwrap());
    for file in ["params.json", "consolidated.safetensors"] {
        std::fs::copy(fixture("mistral").join(file), folder.path().join(file)).unwrap();
    }
    let request = |epoch| {
        let mut request = group.request(epoch, 0);
        request.model = Some(ModelSource { source: Some(Source::Folder(folder.path().display().to_string())) });
        request
    };
    let first = worker.load(request(1)).await.unwrap();
    assert_eq!(worker.load(request(2)).await.unwrap().bytes_read, 0, "held");
    let file = folder.path().join("consolidated.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.iter_mut().rev().take(1 << 20).for_each(|byte| *byte ^= 1);
    std::fs::write(&file, bytes).unwrap();
    let second = worker.load(request(3)).await.unwrap();
    assert_eq!(second.bytes_read, first.bytes_read, "read again");
    assert_ne!(second.model_fingerprint, first.model_fingerprint);
    assert_eq!(first.model_fingerprint, worker.load(group.request(4, 0)).await.unwrap().model_fingerprint, "copies are the same");
}
