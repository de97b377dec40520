//! How many tokens a step had better have at most, by what computes it.
//!
//! A step reads all weights once, whatever it is for: more tokens share the reading, until products take longer than it.
//! On a CPU that is soon, and a step of 512 tokens takes long enough for those who wait for their next token. On a GPU a
//! prompt is best computed whole, as far as its activations have room.

use tessera_model::pass_row_bytes;
use tessera_types::{ModelSpec, ShardPlan};

use crate::DeviceConfig;

/// On CPUs.
const FEW: u32 = 512;
/// On GPUs, real and simulated: an H100 takes a quarter of a second for so many of Pixtral-12B, in which nobody else has
/// a token.
const MOST: u32 = 8192;
/// Bytes of a number that GPUs multiply.
const WORKING: usize = 2;

/// Tokens that the engine may give a step of a rank.
pub(crate) fn step_tokens(device: &DeviceConfig, spec: &ModelSpec, plan: &ShardPlan) -> u32 {
    match device {
        DeviceConfig::Cpu { .. } => FEW,
        DeviceConfig::Cuda { gpu, .. } => fitting(pass_row_bytes(spec, plan, WORKING), gpu.workspace()),
        DeviceConfig::Sim { .. } => MOST,
    }
}

/// The largest power of two of rows, each of `row` bytes, that have room in half of a workspace. The other half is for what
/// does not grow with them: images that were encoded, attention of single rows to long contexts, logits, and the holes
/// between what is given out and given back.
fn fitting(row: usize, workspace: u64) -> u32 {
    let room = workspace / 2 / row.max(1) as u64;
    let room = u32::try_from(room).unwrap_or(MOST).clamp(1, MOST);
    1 << room.ilog2()
}

#[cfg(test)]
mod tests {
    use tessera_device::cuda::CudaGpu;
    use tessera_types::Rank;

    use super::*;

    fn on_gpu(gigabytes: u64, tp: usize) -> u32 {
        let gpu = CudaGpu { ordinal: 0, name: "a GPU".into(), memory: gigabytes * 1_000_000_000 };
        let device = DeviceConfig::Cuda { gpu, kernels: None, kv_memory: None, graphs: true, peers: true };
        let spec = ModelSpec::pixtral_12b();
        step_tokens(&device, &spec, &ShardPlan::new(&spec, tp, Rank(0)).unwrap())
    }

    #[test]
    fn a_row_of_pixtral_12b_takes_what_its_layers_hand_on() {
        let spec = ModelSpec::pixtral_12b();
        let plan = ShardPlan::new(&spec, 1, Rank(0)).unwrap();
        // The residual stream; then normed and added rows, queries with keys and values, what they attended to, gate and
        // up, and their product.
        let row = 4 * 5120 + 2 * (5120 + 5120 + 6144 + 4096 + 28_672 + 14_336);
        assert_eq!(pass_row_bytes(&spec, &plan, WORKING), row);
        assert_eq!(8192 * row, 1_207_959_552);
    }

    #[test]
    fn a_gpu_is_given_as_many_rows_as_half_its_workspace_holds() {
        // Of 80 GB a 24th, less an eighth of that, is 2.92 GB: half of it holds 9889 rows.
        assert_eq!(on_gpu(80, 1), 8192);
        assert_eq!(on_gpu(141, 1), 8192, "no more, however much room there is");
        assert_eq!(on_gpu(40, 1), 4096);
        assert_eq!([4, 8].map(|tp| on_gpu(24, tp)), [4096, 4096]);
        assert_eq!(on_gpu(0, 1), 1);
    }

    #[test]
    fn cpus_have_few_and_simulated_gpus_most() {
        let spec = ModelSpec::bench_1b();
        let plan = ShardPlan::new(&spec, 1, Rank(0)).unwrap();
        assert_eq!(step_tokens(&DeviceConfig::Cpu { threads: 1, kv_memory: 1 }, &spec, &plan), 512);
        let sim = DeviceConfig::Sim { accelerator: "h100".parse().unwrap(), kv_memory: None };
        assert_eq!(step_tokens(&sim, &spec, &plan), 8192);
    }
}
