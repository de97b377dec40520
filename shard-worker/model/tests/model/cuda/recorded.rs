//! Recorded passes where there is little memory for them.

use tessera_collective::Solo;
use tessera_device::cuda::CudaDevice;
use tessera_model::{Model, WeightSource, pass_row_bytes};
use tessera_types::{Rank, SamplingParams, SequenceId, ShardPlan, TokenId, VisionParallel};

use super::{BF16, WORKSPACE, device, load};
use crate::cases;
use crate::driver::{Driver, start};

/// Sequences that are decoded together at most.
pub(super) const MOST: u64 = 16;

/// A workspace of which recorded passes have what `rows` rows take of one rank, but for what attention takes beside.
pub(super) fn workspace(rows: usize) -> usize {
    let spec = WeightSource::open(&cases::fixture("hf")).unwrap().spec().clone();
    8 * rows * pass_row_bytes(&spec, &ShardPlan::new(&spec, 1, Rank(0)).unwrap(), 2)
}

/// Tokens of sequences of which ever more are decoded, three steps a number of them.
pub(super) fn decoded(model: &mut Model<CudaDevice>) -> Vec<(SequenceId, TokenId)> {
    let (mut driver, case) = (Driver::new(), &cases::all()[0]);
    let mut tokens = Vec::new();
    for id in 1..=MOST {
        let sampling = SamplingParams { seed: id, ..SamplingParams::default() };
        driver.start(start(id, case, sampling));
        driver.chunk(id, usize::MAX);
        // Prompts one by one, so that little memory is enough for them.
        tokens.extend(driver.step_unseen(model).sampled);
    }
    for most in 1..=MOST {
        for _ in 0..3 {
            (1..=most).for_each(|id| driver.chunk(id, 1));
            tokens.extend(driver.step_unseen(model).sampled);
        }
    }
    tokens.into_iter().map(|sampled| (sampled.sequence, sampled.token)).collect()
}

fn on_one(records: bool, bytes: usize) -> Model<CudaDevice> {
    load("hf", device(0, BF16, records, bytes), Box::new(Solo::default()), VisionParallel::Tensor)
}

#[test]
fn a_pass_that_does_not_fit_beside_the_others_runs_unrecorded_and_is_right() {
    let wanted = decoded(&mut on_one(false, WORKSPACE));
    let mut little = on_one(true, workspace(MOST as usize / 2));
    assert_eq!(decoded(&mut little), wanted);
    let recorded = little.recorded_passes();
    assert!((1..MOST as usize).contains(&recorded), "{recorded} passes were recorded");
}

/// They compute and leave their results in the same memory: the results alone, side by side, would take more than is spare.
#[test]
fn passes_of_all_sizes_are_recorded_in_little_more_than_the_largest_takes() {
    let mut model = on_one(true, workspace(MOST as usize * 2));
    let tokens = decoded(&mut model);
    assert_eq!(model.recorded_passes(), MOST as usize);
    assert_eq!(tokens, decoded(&mut on_one(false, WORKSPACE)));
}
