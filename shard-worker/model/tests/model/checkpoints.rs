//! Checkpoint folders: variants that load, and broken ones that say what is wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype as StoredDtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use tempfile::TempDir;
use tessera_collective::{AbortHandle, Collective, CollectiveError, Solo};
use tessera_device::Dtype;
use tessera_device::cpu::{CpuConfig, CpuDevice};
use tessera_model::checkpoint::TensorSlice;
use tessera_model::{CacheConfig, CheckpointError, Layout, Model, ModelError, WeightSource};
use tessera_types::{Rank, SequenceId, ShardPlan};

use crate::cases;
use crate::driver::{Driver, alone, greedy, load, start};

pub(crate) type Tensors = BTreeMap<String, (StoredDtype, Vec<usize>, Vec<u8>)>;

/// All tensors of a fixture folder.
pub(crate) fn tensors(layout: &str) -> Tensors {
    let files = fs::read_dir(cases::fixture(layout)).unwrap().map(|entry| entry.unwrap().path());
    let mut tensors = Tensors::new();
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "safetensors")) {
        let bytes = fs::read(file).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            tensors.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    tensors
}

/// A folder with one safetensors file and a configuration.
pub(crate) fn folder(file: &str, tensors: &Tensors, config: (&str, String)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &folder.path().join(file)).unwrap();
    fs::write(folder.path().join(config.0), config.1).unwrap();
    folder
}

/// A copy of a fixture folder, to break.
fn copy(layout: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(cases::fixture(layout)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

pub(crate) fn config(layout: &str, file: &str) -> String {
    fs::read_to_string(cases::fixture(layout).join(file)).unwrap()
}

/// Logits behind a text prompt.
fn text_logits(folder: &Path) -> Vec<f32> {
    let case = cases::load(0, "text_short");
    let mut model = alone(&WeightSource::open(folder).unwrap(), Dtype::F32);
    let mut driver = Driver::new();
    driver.start(start(1, &case, greedy()));
    driver.chunk(1, usize::MAX);
    let mut logits = Vec::new();
    driver.step(&mut model, &mut |_, _, row| logits = row.to_vec());
    logits
}

#[test]
fn text_only_checkpoints_of_both_layouts_give_the_multimodal_ones_logits() {
    let expected = text_logits(&cases::fixture("hf"));
    let text: Tensors = tensors("hf")
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("language_model.")?.to_owned(), tensor)))
        .collect();
    let full: serde_json::Value = serde_json::from_str(&config("hf", "config.json")).unwrap();
    let nemo = folder("model.safetensors", &text, ("config.json", full["text_config"].to_string()));
    assert_eq!(text_logits(nemo.path()), expected);

    let text: Tensors = tensors("mistral").into_iter().filter(|(name, _)| !name.starts_with("vision")).collect();
    let mut params: serde_json::Value = serde_json::from_str(&config("mistral", "params.json")).unwrap();
    params.as_object_mut().unwrap().remove("vision_encoder");
    let nemo = folder("consolidated.safetensors", &text, ("params.json", params.to_string()));
    let source = WeightSource::open(nemo.path()).unwrap();
    assert!(source.spec().vision.is_none());
    assert_eq!(text_logits(nemo.path()), expected);
}

#[test]
fn newer_hugging_face_names_are_read() {
    let rename = |name: String| match name.strip_prefix("language_model.") {
        Some("lm_head.weight") => "lm_head.weight".to_owned(),
        Some(rest) => rest.replacen("model.", "model.language_model.", 1),
        None => format!("model.{name}"),
    };
    let newer: Tensors = tensors("hf").into_iter().map(|(name, tensor)| (rename(name), tensor)).collect();
    let newer = folder("model.safetensors", &newer, ("config.json", config("hf", "config.json")));
    assert_eq!(text_logits(newer.path()), text_logits(&cases::fixture("hf")));
}

#[test]
fn tied_embeddings_are_the_output_matrix() {
    let mut tied = tensors("mistral");
    let embedding = tied["tok_embeddings.weight"].clone();
    tied.insert("output.weight".into(), embedding);
    let untied = folder("consolidated.safetensors", &tied, ("params.json", config("mistral", "params.json")));
    tied.remove("output.weight");
    let params = config("mistral", "params.json").replacen('{', "{\"tied_embeddings\": true,", 1);
    let tied = folder("consolidated.safetensors", &tied, ("params.json", params));
    assert_eq!(text_logits(tied.path()), text_logits(untied.path()));
}

#[test]
fn tied_embeddings_beside_another_output_matrix_are_refused_and_beside_the_same_are_not() {
    let mut tensors = tensors("mistral");
    let params = || ("params.json", config("mistral", "params.json").replacen('{', "{\"tied_embeddings\": true,", 1));
    let contradictory = folder("consolidated.safetensors", &tensors, params());
    let error = WeightSource::open(contradictory.path()).unwrap_err();
    assert!(matches!(error, CheckpointError::Tied { .. }), "{error}");
    assert!(error.to_string().contains("output.weight to tok_embeddings.weight"), "{error}");
    let embedding = tensors["tok_embeddings.weight"].clone();
    tensors.insert("output.weight".into(), embedding);
    let twice = folder("consolidated.safetensors", &tensors, params());
    tensors.remove("output.weight");
    let once = folder("consolidated.safetensors", &tensors, params());
    assert_eq!(text_logits(twice.path()), text_logits(once.path()));
}

/// A seat in a group whose other ranks are not there. Loading asks nothing of them.
struct Seat {
    rank: Rank,
    size: usize,
    solo: Solo,
}

impl Collective for Seat {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&mut self, _: &mut [f32]) -> Result<(), CollectiveError> {
        Err(CollectiveError::Aborted)
    }

    fn all_gather(&mut self, _: &[f32], _: &mut [f32]) -> Result<(), CollectiveError> {
        Err(CollectiveError::Aborted)
    }

    fn broadcast(&mut self, _: Rank, _: &mut [u8]) -> Result<(), CollectiveError> {
        Err(CollectiveError::Aborted)
    }

    fn abort_handle(&self) -> AbortHandle {
        self.solo.abort_handle()
    }
}

#[test]
fn a_rank_reads_only_its_slice() {
    for layout in ["hf", "mistral"] {
        let stored = tensors(layout);
        let bytes = |name: &str| stored.get(name).map_or(0, |(_, _, bytes)| bytes.len() as u64);
        let whole: u64 = stored.keys().map(|name| bytes(name)).sum();
        // Norms, the patch convolution and the second adapter bias stand on every rank.
        let on_every_rank = ["norm.weight", "ln_pre.weight", "patch_conv.weight", "w_out.bias", "linear_2.bias"];
        let replicated = |name: &&String| on_every_rank.iter().any(|end| name.ends_with(end));
        let replicated: u64 = stored.keys().filter(replicated).map(|name| bytes(name)).sum();
        for (tp, rank) in [(1, 0), (2, 0), (2, 1), (4, 0), (4, 3)] {
            let source = WeightSource::open(&cases::fixture(layout)).unwrap();
            assert_eq!(source.bytes_read(), 0);
            let seat = Seat { rank: Rank(rank), size: tp, solo: Solo::default() };
            load(&source, tp, Box::new(seat), Dtype::Bf16).unwrap();
            assert_eq!(source.bytes_read(), (whole - replicated) / tp as u64 + replicated, "{layout} rank {rank} of {tp}");
        }
    }
}

#[test]
fn layouts_are_told_by_their_files() {
    assert_eq!(Layout::detect(&cases::fixture("hf")), Ok(Layout::HuggingFace));
    assert_eq!(Layout::detect(&cases::fixture("mistral")), Ok(Layout::Mistral));
    let empty = tempfile::tempdir().unwrap();
    let error = WeightSource::open(empty.path()).unwrap_err().to_string();
    assert!(error.contains("neither params.json (Mistral) nor config.json (Hugging Face)"), "{error}");
    fs::write(empty.path().join("params.json"), "{}").unwrap();
    assert_missing_file(empty.path(), "consolidated.safetensors");
}

fn assert_missing_file(folder: &Path, name: &str) {
    match WeightSource::open(folder).unwrap_err() {
        CheckpointError::MissingFile { file, .. } => assert_eq!(file, folder.join(name)),
        other => panic!("{other}"),
    }
}

#[test]
fn an_index_that_names_an_absent_file_is_an_error_with_both() {
    let broken = copy("hf");
    let shard = "model-00003-of-00004.safetensors";
    fs::remove_file(broken.path().join(shard)).unwrap();
    let error = WeightSource::open(broken.path()).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::MissingFile { file, why } if file.ends_with(shard) && why.contains("tensor ")),
        "{error}"
    );
}

#[test]
fn a_mistral_folder_of_several_files_is_read_by_its_index() {
    let whole = tensors("mistral");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("params.json"), config("mistral", "params.json")).unwrap();
    let file = |part: usize| format!("consolidated-{part:05}-of-00003.safetensors");
    let mut index = BTreeMap::new();
    for part in 1..=3 {
        let of_part = whole.iter().enumerate().filter(|(at, _)| at % 3 + 1 == part).map(|(_, tensor)| tensor);
        let views = of_part.map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        let views: Vec<_> = views.collect();
        index.extend(views.iter().map(|(name, _)| ((*name).clone(), file(part))));
        serialize_to_file(views, None, &folder.path().join(file(part))).unwrap();
    }
    assert_missing_file(folder.path(), "consolidated.safetensors");
    let index = serde_json::json!({ "metadata": {}, "weight_map": index });
    fs::write(folder.path().join("consolidated.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(Layout::detect(folder.path()), Ok(Layout::Mistral));
    assert_eq!(text_logits(folder.path()), text_logits(&cases::fixture("mistral")));
    fs::remove_file(folder.path().join(file(2))).unwrap();
    assert_missing_file(folder.path(), &file(2));
}

#[test]
fn an_index_that_points_outside_or_is_no_json_is_an_error() {
    let broken = copy("hf");
    let index = broken.path().join("model.safetensors.index.json");
    for text in ["{\"weight_map\": {\"a\": \"../x.safetensors\"}}", "{\"weight_map\": 3}", "{"] {
        fs::write(&index, text).unwrap();
        let error = WeightSource::open(broken.path()).unwrap_err();
        assert!(matches!(&error, CheckpointError::Index { file, .. } if *file == index), "{error}");
    }
}

#[test]
fn a_truncated_file_is_named_with_the_first_tensor_cut_off() {
    let broken = copy("mistral");
    let path = broken.path().join("consolidated.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let last = SafeTensors::read_metadata(&bytes).unwrap().1.offset_keys().pop().unwrap();
    match WeightSource::open(broken.path()).unwrap_err() {
        CheckpointError::Truncated { file, tensor, expected, got } => {
            assert_eq!((file, tensor), (path, last));
            assert_eq!((expected, got), (bytes.len() as u64, bytes.len() as u64 - 1));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn corrupt_headers_are_refused() {
    let broken = copy("mistral");
    let path = broken.path().join("consolidated.safetensors");
    let good = fs::read(&path).unwrap();
    let huge_header = [&u64::MAX.to_le_bytes()[..], &good[8..]].concat();
    let no_json = [&good[..8], &vec![b'x'; good.len() - 8]].concat();
    let too_long = [&good[..], b"more"].concat();
    for bytes in [Vec::new(), vec![0; 5], huge_header, no_json, too_long] {
        fs::write(&path, bytes).unwrap();
        let error = WeightSource::open(broken.path()).unwrap_err();
        assert!(matches!(&error, CheckpointError::Header { file, .. } if *file == path), "{error}");
    }
}

/// The error that loading one rank of a Mistral folder ends with.
fn load_error(tensors: &Tensors, params: String) -> CheckpointError {
    let broken = folder("consolidated.safetensors", tensors, ("params.json", params));
    let source = WeightSource::open(broken.path()).unwrap();
    let collective = Box::new(Solo::default());
    match load(&source, 1, collective, Dtype::F32) {
        Err(ModelError::Checkpoint(error)) => {
            assert_eq!(source.bytes_read(), 0, "it was found before anything was read");
            error
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it loaded"),
    }
}

fn names(error: &CheckpointError, expected: &str) {
    let text = error.to_string();
    assert!(text.contains("consolidated.safetensors: tensor ") && text.contains(expected), "{text}");
}

#[test]
fn missing_misshapen_and_unreadable_tensors_are_named() {
    let params = || config("mistral", "params.json");
    let good = tensors("mistral");
    let name = "layers.2.feed_forward.w2.weight";

    let mut missing = good.clone();
    missing.remove(name);
    names(&load_error(&missing, params()), "layers.2.feed_forward.w2.weight is missing");

    let wider = params().replace("\"hidden_dim\": 704", "\"hidden_dim\": 720");
    names(&load_error(&good, wider), "has shape [320, 704], the configuration makes it [320, 720]");

    let mut integers = good.clone();
    integers.get_mut(name).unwrap().0 = StoredDtype::I16;
    names(&load_error(&integers, params()), "w2.weight is stored as I16; F32, BF16 and F16 are read");
}

#[test]
fn numbers_of_all_three_kinds_are_read() {
    let expected = text_logits(&cases::fixture("mistral"));
    let mut widened = tensors("mistral");
    for (dtype, _, bytes) in widened.values_mut() {
        *dtype = StoredDtype::F32;
        // A bfloat16 is the upper half of a float.
        *bytes = bytes.chunks(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
    }
    let wide = folder("consolidated.safetensors", &widened, ("params.json", config("mistral", "params.json")));
    assert_eq!(text_logits(wide.path()), expected);

    let half = |b: &[u8]| half::f16::from_f32(half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).to_le_bytes();
    let mut halves = tensors("mistral");
    for (dtype, _, bytes) in halves.values_mut() {
        *dtype = StoredDtype::F16;
        *bytes = bytes.chunks(2).flat_map(half).collect();
    }
    let halves = folder("consolidated.safetensors", &halves, ("params.json", config("mistral", "params.json")));
    let logits = text_logits(halves.path());
    assert!(logits.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.05), "f16 drops the smallest numbers only");
}

#[test]
fn a_file_cut_after_opening_names_file_and_tensor() {
    let broken = copy("mistral");
    let path: PathBuf = broken.path().join("consolidated.safetensors");
    let source = WeightSource::open(broken.path()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(20_000).unwrap();
    let slice = TensorSlice::matrix("output.weight", &[4096, 320]);
    let error = source.read(&slice).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Read { file, tensor, .. } if *file == path && tensor == "output.weight"),
        "{error}"
    );
}

#[test]
fn weights_that_are_no_numbers_break_the_sequence_and_not_the_step() {
    let mut broken = tensors("mistral");
    broken.get_mut("norm.weight").unwrap().2[..2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    let broken = folder("consolidated.safetensors", &broken, ("params.json", config("mistral", "params.json")));
    let mut model = alone(&WeightSource::open(broken.path()).unwrap(), Dtype::F32);
    let case = cases::load(0, "text_short");
    let mut driver = Driver::new();
    driver.start(start(3, &case, greedy()));
    driver.chunk(3, usize::MAX);
    let output = model.step(&driver.plan).unwrap();
    assert_eq!(output.broken, [SequenceId(3)]);
    assert_eq!(output.sampled.len(), 1, "every chunk that samples is answered");
}

#[test]
fn loading_ends_where_its_progress_is_refused() {
    let source = WeightSource::open(&cases::fixture("mistral")).unwrap();
    let plan = ShardPlan::new(source.spec(), 1, Rank(0)).unwrap();
    let device = CpuDevice::new(CpuConfig { threads: 1, dtype: Dtype::F32 }).unwrap();
    let cache = CacheConfig { blocks: 4, dtype: Dtype::F32.into() };
    let mut calls = 0;
    let mut progress = |_, _| {
        calls += 1;
        if calls == 3 { Err(CollectiveError::Aborted.into()) } else { Ok(()) }
    };
    let loaded = Model::load(&source, plan, device, Box::new(Solo::default()), cache, &mut progress);
    assert_eq!(loaded.err(), Some(ModelError::Collective(CollectiveError::Aborted)));
    assert_eq!(calls, 3);
    let whole = fs::metadata(cases::fixture("mistral/consolidated.safetensors")).unwrap().len();
    assert!(source.bytes_read() < whole, "{} of {whole} bytes", source.bytes_read());
}

#[test]
fn a_checkpoint_is_told_from_another_by_what_is_in_it_and_from_itself_by_when_it_was_written() {
    let (one, two, mut other) = (copy("mistral"), copy("mistral"), tensors("mistral"));
    let fingerprint = |folder: &TempDir| WeightSource::open(folder.path()).unwrap().fingerprint();
    let original = fingerprint(&one);
    assert_eq!(fingerprint(&one), original);
    // Computed by another program, so that it stays what it is.
    assert_eq!(original.to_string(), "2f61ef3d5ecd569f");
    assert_eq!(fingerprint(&two).to_string(), original.to_string(), "copies are the same to ranks");
    other.values_mut().for_each(|(_, _, data)| data.iter_mut().for_each(|byte| *byte ^= 1));
    let other = folder("consolidated.safetensors", &other, ("params.json", config("mistral", "params.json")));
    assert_ne!(fingerprint(&other).to_string(), original.to_string(), "headers and lengths are the same, numbers are not");
    let file = fs::File::options().write(true).open(one.path().join("consolidated.safetensors")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_ne!(fingerprint(&one), original, "written again");
}
