//! Images that ranks encode apart, each rank other ones, are what all ranks make of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tessera_collective::CollectiveError;
use tessera_device::Dtype;
use tessera_device::cpu::CpuDevice;
use tessera_model::{Model, ModelError, WeightSource};
use tessera_types::{ImageEncode, Rank, VisionParallel};

use crate::cases;
use crate::driver::{empty_plan, group, group_sharing};
use crate::golden::check_f32;

fn images() -> Vec<ImageEncode> {
    cases::all().into_iter().flat_map(|case| case.images).collect()
}

/// Encodes images in one step; the bits of all features.
fn encoded(model: &mut Model<CpuDevice>, images: &[ImageEncode]) -> Vec<u32> {
    let mut plan = empty_plan(1);
    plan.encode = images.to_vec();
    model.step(&plan).unwrap();
    let features = images.iter().flat_map(|image| model.image_features(image.key).unwrap().unwrap());
    features.map(f32::to_bits).collect()
}

#[test]
fn features_have_the_same_bits_whoever_encodes_them() {
    let all = images();
    for (layout, dtype) in [("hf", Dtype::F32), ("mistral", Dtype::Bf16)] {
        let folder = cases::fixture(layout);
        let source = WeightSource::open(&folder).unwrap();
        let alone = group(&folder, 1, dtype, |model| encoded(model, &all)).remove(0);
        for tp in [2, 4] {
            for parallel in VisionParallel::ALL {
                let ranks = group_sharing(&source, tp, dtype, parallel, |model| encoded(model, &all));
                assert!(ranks.iter().all(|features| *features == alone), "{layout}, {parallel} on {tp} ranks");
            }
        }
    }
}

#[test]
fn ranks_that_encode_by_image_equal_the_reference() {
    for tp in [2, 4] {
        check_f32("hf", tp, VisionParallel::Image);
        check_f32("mistral", tp, VisionParallel::Image);
    }
}

#[test]
fn ranks_that_choose_equal_the_reference() {
    check_f32("hf", 2, VisionParallel::Auto);
    check_f32("mistral", 4, VisionParallel::Auto);
}

/// The largest image that the model takes, which one of two ranks encodes; each rank counts how far it gets.
fn largest_image_apart<R: Send>(work: impl Fn(&mut Model<CpuDevice>, &[ImageEncode], &AtomicU64) -> R + Sync) -> Vec<R> {
    let image = images().into_iter().max_by_key(|image| image.grid.patches()).unwrap();
    let source = WeightSource::open(&cases::fixture("mistral")).unwrap();
    group_sharing(&source, 2, Dtype::F32, VisionParallel::Image, |model| {
        let counter = Arc::new(AtomicU64::new(0));
        model.count_progress(counter.clone());
        work(model, std::slice::from_ref(&image), &counter)
    })
}

#[test]
fn a_rank_without_an_image_gets_on_as_far_as_the_one_that_has_it() {
    let counts = largest_image_apart(|model, image, counter| {
        encoded(model, image);
        counter.load(Ordering::Relaxed)
    });
    // Two sums in each of three layers, one in the adapter, and what is handed round.
    assert_eq!(counts, [8, 8]);
}

#[test]
fn a_rank_that_goes_while_another_encodes_is_missed_before_the_image_is_done() {
    let missed = largest_image_apart(|model, image, counter| {
        let mut plan = empty_plan(1);
        plan.encode = image.to_vec();
        let others = model.plan().rank == Rank(1);
        let failure = if others { None } else { model.step(&plan).err() };
        (failure, counter.load(Ordering::Relaxed))
    });
    assert_eq!(missed[0], (Some(ModelError::Collective(CollectiveError::PeerLost(Rank(1)))), 1));
}
