//! Ranks on two GPUs that NCCL joins, and how they share images.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use tessera_collective::{GroupConfig, Transport};
use tessera_device::cuda::CudaDevice;
use tessera_model::Model;
use tessera_types::{Epoch, Rank, VisionParallel};

use super::{BF16, WORKSPACE, device, load, logprobs, model, recorded};
use crate::cases;
use crate::driver::Driver;
use crate::golden::{check_bf16, forced};

/// Runs `work` on every rank of two GPUs that NCCL joins; the results in rank order.
fn two_gpus<R: Send>(layout: &str, parallel: VisionParallel, work: impl Fn(&mut Model<CudaDevice>) -> R + Sync) -> Vec<R> {
    two_gpus_with(layout, parallel, (false, WORKSPACE), work)
}

/// The same, passes recorded or not, in a workspace of so many bytes.
fn two_gpus_with<R: Send>(
    layout: &str,
    parallel: VisionParallel,
    (records, workspace): (bool, usize),
    work: impl Fn(&mut Model<CudaDevice>) -> R + Sync,
) -> Vec<R> {
    // First the driver, which NCCL looks for.
    tessera_test_gpu::open();
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
                let device = device(rank, BF16, records, workspace);
                let mut model = load(layout, device, tessera_collective::join(&config(rank)).unwrap(), parallel);
                assert!(model.has_peers() || tessera_test_gpu::is_real(), "GPUs of one process reach each other");
                work(&mut model)
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
fn log_probabilities_of_two_gpus_as_a_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let both = two_gpus("hf", VisionParallel::Tensor, logprobs::by_host_and_device);
    let (host, rows, said) = &both[0];
    logprobs::check(said, host, rows, "on two GPUs");
    assert!(both[1].0.is_empty() && both[1].2.is_empty(), "rank 0 alone answers");
}

#[test]
fn recorded_passes_of_two_gpus_as_a_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let on = |records, bytes| {
        let ranks = two_gpus_with("hf", VisionParallel::Tensor, (records, bytes), |model| {
            (recorded::decoded(model), model.recorded_passes())
        });
        assert_eq!(ranks[0], ranks[1]);
        ranks.into_iter().next().unwrap()
    };
    let (wanted, none) = on(false, WORKSPACE);
    let (tokens, some) = on(true, recorded::workspace(recorded::MOST as usize * 5 / 8));
    assert_eq!((none, tokens), (0, wanted));
    assert!((1..recorded::MOST as usize).contains(&some), "{some} passes were recorded");
}

/// Runs one of the above in a process that sees two GPUs.
fn as_a_child(test: &str) {
    if !tessera_test_gpu::has(2) {
        // Past the harness, which shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped: there are no two GPUs here");
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("cuda::two::{test}"), "--nocapture"]).env(CHILD, "1");
    let ended = child.envs(tessera_test_gpu::environment(2)).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn two_gpus_encode_apart_what_one_encodes_and_stay_near_the_reference_either_way() {
    as_a_child("two_gpus_as_a_child");
}

#[test]
fn rank_0_of_two_gpus_says_what_the_host_says_and_the_other_nothing() {
    as_a_child("log_probabilities_of_two_gpus_as_a_child");
}

#[test]
fn ranks_with_little_memory_leave_the_same_passes_unrecorded() {
    as_a_child("recorded_passes_of_two_gpus_as_a_child");
}
