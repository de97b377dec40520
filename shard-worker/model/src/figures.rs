//! What is taken for granted of the ranks of a group when images are shared out.

use tessera_collective::Collective;
use tessera_device::Dtype;
use tessera_device::sim::Accelerator;
use tessera_types::GroupFigures;

/// Of ranks whose memory a collective joins: an H100's on GPUs, a core's on CPUs. All ranks of a group are of one kind, so all
/// have the same, which what they measure themselves would not be.
pub(crate) fn group_figures(collective: &dyn Collective, dtype: Dtype) -> GroupFigures {
    let bytes = match dtype {
        Dtype::F32 => 4,
        Dtype::Bf16 => 2,
    };
    if collective.joins_devices() {
        return Accelerator::H100.group_figures(bytes);
    }
    GroupFigures {
        weights: CORE_BANDWIDTH / bytes as f64,
        flops: CORE_FLOPS,
        exchange: SHM_EXCHANGE,
        link: SHM_LINK / size_of::<f32>() as f64,
        exact: true,
    }
}

/// Of a core of the bench's machine while both compute (`tests/bench/README.md`): bytes and operations a second.
const CORE_BANDWIDTH: f64 = 20e9;
const CORE_FLOPS: f64 = 206e9;
/// Measured on two such cores in shared memory, others at work: seconds of a sum of one number, and bytes a second of a sum of
/// a million. By TCP it takes two and five times as long within a host, which is let pass.
const SHM_EXCHANGE: f64 = 6.7e-6;
const SHM_LINK: f64 = 11e9;
