//! What a GPU does behind the host's back: its time and its failures are known later.

use std::process::Command;

use tessera_model::ModelError;
use tessera_types::SamplingParams;

use super::{BF16, model};
use crate::cases;
use crate::driver::{Driver, start};

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

#[test]
fn the_time_of_images_is_told_of_the_steps_that_encode_some() {
    let (mut model, mut driver) = (model("hf", BF16, false), Driver::new());
    let case = cases::all().into_iter().find(|case| !case.images.is_empty()).unwrap();
    driver.start(start(1, &case, greedy()));
    driver.plan.encode = case.images.clone();
    let mut took = || {
        driver.chunk(1, usize::MAX);
        driver.step_unseen(&mut model).timings
    };
    let (first, second) = (took(), took());
    assert!(first.encode_us > 0 && first.forward_us > 0, "{first:?}");
    assert!(second.encode_us == 0 && second.forward_us > 0, "{second:?}");
}

const CHILD: &str = "TESSERA_TEST_LOST_GPU";

/// Of a GPU that fails at choosing, the last thing that a step does.
#[test]
fn lost_as_a_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let (mut model, mut driver, case) = (model("hf", BF16, false), Driver::new(), &cases::all()[0]);
    driver.start(start(1, case, greedy()));
    driver.chunk(1, usize::MAX);
    // The host may be through with the step before the device fails.
    let _ = model.begin(&driver.take());
    assert!(matches!(model.leave(), Err(ModelError::Device(_))));
    println!("told");
}

/// Whoever leaves a group for another reason, such as what the collective said first, must learn it: the process is of no use.
#[test]
fn a_gpu_that_was_lost_is_told_by_leaving_the_group() {
    if tessera_test_gpu::is_real() {
        return;
    }
    tessera_test_gpu::kernels();
    for asynchronous in ["0", "1"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["cuda::behind::lost_as_a_child", "--exact", "--nocapture"]).env(CHILD, "1");
        command.env("FAKE_CUDA_ASYNC", asynchronous).env("FAKE_CUDA_FAIL", "sample:1:700");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("told"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    }
}
