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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepTokens {
    /// Where nobody says otherwise.
    pub(crate) advised: u32,
    /// Whoever says otherwise: with more a step may fail. 0 where there is no bound.
    pub(crate) most: u32,
}

/// What a rank says of them.
pub(crate) fn step_tokens(device: &DeviceConfig, spec: &ModelSpec, plan: &ShardPlan) -> StepTokens {
    match device {
        DeviceConfig::Cpu { .. } => StepTokens { advised: FEW, most: 0 },
        DeviceConfig::Cuda { gpu, .. } => {
            let most = fitting(pass_row_bytes(spec, plan, WORKING), gpu.workspace());
            StepTokens { advised: 1 << most.min(MOST).ilog2(), most }
        }
        DeviceConfig::Sim { .. } => StepTokens { advised: MOST, most: 0 },
    }
}

/// Rows, each of `row` bytes, that have room in half of a workspace; at least one. The other half is for what does not grow
/// with them: images that were encoded, attention of single rows to long contexts, logits, and the holes between what is
/// given out and given back.
fn fitting(row: usize, workspace: u64) -> u32 {
    let room = workspace / 2 / row.max(1) as u64;
    u32::try_from(room).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use tessera_device::cuda::CudaGpu;
    use tessera_types::Rank;

    use super::*;
    use crate::CudaWays;

    fn on_gpu(gigabytes: u64, tp: usize) -> [u32; 2] {
        let gpu = CudaGpu { ordinal: 0, name: "a GPU".into(), memory: gigabytes * 1_000_000_000 };
        let ways = CudaWays { graphs: true, overlap: true, peers: true };
        let device = DeviceConfig::Cuda { gpu, kernels: None, kv_memory: None, ways };
        let spec = ModelSpec::pixtral_12b();
        let tokens = step_tokens(&device, &spec, &ShardPlan::new(&spec, tp, Rank(0)).unwrap());
        [tokens.advised, tokens.most]
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
        assert_eq!(on_gpu(80, 1), [8192, 9889]);
        assert_eq!(on_gpu(141, 1), [8192, 17_431], "no more is advised, however much room there is");
        assert_eq!(on_gpu(40, 1), [4096, 4944]);
        assert_eq!([4, 8].map(|tp| on_gpu(24, tp)[0]), [4096, 4096]);
        assert_eq!(on_gpu(0, 1), [1, 1]);
    }

    #[test]
    fn cpus_have_few_and_simulated_gpus_most() {
        let spec = ModelSpec::bench_1b();
        let plan = ShardPlan::new(&spec, 1, Rank(0)).unwrap();
        let on_cpu = step_tokens(&DeviceConfig::Cpu { threads: 1, kv_memory: 1 }, &spec, &plan);
        assert_eq!(on_cpu, StepTokens { advised: 512, most: 0 });
        let sim = DeviceConfig::Sim { accelerator: "h100".parse().unwrap(), kv_memory: None };
        assert_eq!(step_tokens(&sim, &spec, &plan), StepTokens { advised: 8192, most: 0 });
    }
}
