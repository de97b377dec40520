//! What ranks on GPUs must do when all goes well, checked by each rank on its own.

use cudarc::driver::{
    CudaGraph,
    sys::{CUgraphInstantiate_flags_enum, CUstreamCaptureMode},
};
use tessera_collective::Collective;
use tessera_types::{DeviceDtype, DeviceSlice, Rank};

use crate::{
    gpu::{Buffer, Gpu},
    ranks::Group,
};

const DTYPES: [DeviceDtype; 2] = [DeviceDtype::F32, DeviceDtype::Bf16];

/// Small whole numbers: their sums are exact in either dtype, in whatever order.
fn value(rank: usize, index: usize) -> f32 {
    ((rank * 31 + index * 7) % 32) as f32 - 8.0
}

fn own(collective: &dyn Collective) -> (usize, usize) {
    (collective.rank().0.into(), collective.size())
}

fn values(rank: usize, len: usize) -> Vec<f32> {
    (0..len).map(|index| value(rank, index)).collect()
}

fn sums(size: usize, len: usize, times: f32) -> Vec<f32> {
    (0..len).map(|index| times * (0..size).map(|rank| value(rank, index)).sum::<f32>()).collect()
}

pub(crate) fn all(gpu: &Gpu, collective: &mut dyn Collective) {
    assert!(collective.joins_devices());
    for dtype in DTYPES {
        for len in [0, 1, 7, 5120, 300_007] {
            sums_are_those_of_all_ranks(gpu, collective, len, dtype);
            gathered_parts_stand_in_rank_order(gpu, collective, len, dtype);
        }
    }
    every_rank_can_be_the_root_and_bits_stay(gpu, collective);
    what_is_enqueued_runs_in_order(gpu, collective);
}

fn sums_are_those_of_all_ranks(gpu: &Gpu, collective: &mut dyn Collective, len: usize, dtype: DeviceDtype) {
    let (rank, size) = own(collective);
    let buffer = gpu.numbers(&values(rank, len), dtype);
    collective.all_reduce_device(buffer.slice).unwrap();
    gpu.watch(collective).unwrap();
    assert_eq!(gpu.read_numbers(&buffer), sums(size, len, 1.0), "{dtype:?} {len}");
}

fn gathered_parts_stand_in_rank_order(gpu: &Gpu, collective: &mut dyn Collective, len: usize, dtype: DeviceDtype) {
    let (rank, size) = own(collective);
    let expected: Vec<f32> = (0..size).flat_map(|rank| values(rank, len)).collect();
    let (part, whole) = (gpu.numbers(&values(rank, len), dtype), gpu.numbers(&vec![f32::NAN; size * len], dtype));
    collective.all_gather_device(part.slice, whole.slice).unwrap();
    gpu.watch(collective).unwrap();
    assert_eq!(gpu.read_numbers(&whole), expected, "{dtype:?} {len}");

    let mut in_place = vec![f32::NAN; size * len];
    in_place[rank * len..(rank + 1) * len].copy_from_slice(&values(rank, len));
    let whole = gpu.numbers(&in_place, dtype);
    let place = whole.slice.address + (rank * len * dtype.bytes()) as u64;
    collective.all_gather_device(DeviceSlice { address: place, numbers: len, ..whole.slice }, whole.slice).unwrap();
    gpu.watch(collective).unwrap();
    assert_eq!(gpu.read_numbers(&whole), expected, "{dtype:?} {len} in place");
}

/// Token ids go this way, as bits of floats.
fn every_rank_can_be_the_root_and_bits_stay(gpu: &Gpu, collective: &mut dyn Collective) {
    let (rank, size) = own(collective);
    let bits =
        |root: usize| -> Vec<u8> { (0..999_u32).flat_map(|i| (0xff80_0000 + 77 * i + root as u32).to_le_bytes()).collect() };
    for root in 0..size {
        let buffer = gpu.bytes(&bits(rank), DeviceDtype::F32);
        collective.broadcast_device(Rank(root as u16), buffer.slice).unwrap();
        gpu.watch(collective).unwrap();
        assert_eq!(gpu.read(&buffer), bits(root), "root {root}");
    }
}

/// Nobody waits between two operations; the stream keeps them apart.
fn what_is_enqueued_runs_in_order(gpu: &Gpu, collective: &mut dyn Collective) {
    let (rank, size) = own(collective);
    let buffer = gpu.numbers(&values(rank, 3), DeviceDtype::F32);
    for _ in 0..6 {
        collective.all_reduce_device(buffer.slice).unwrap();
    }
    gpu.watch(collective).unwrap();
    let times = (size as f32).powi(5);
    assert_eq!(gpu.read_numbers(&buffer), sums(size, 3, times));
}

pub(crate) fn captured_sum(gpu: &Gpu, collective: &mut dyn Collective, buffer: &Buffer) -> CudaGraph {
    gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    collective.all_reduce_device(buffer.slice).unwrap();
    let flags = CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    gpu.stream.end_capture(flags).unwrap().unwrap()
}

/// The first all-reduce connects the ranks; the captured one then is the step's.
pub(crate) fn captured_sums_run_again(gpu: &Gpu, collective: &mut dyn Collective) {
    let (rank, size) = own(collective);
    let buffer = gpu.numbers(&values(rank, 99), DeviceDtype::Bf16);
    collective.all_reduce_device(buffer.slice).unwrap();
    gpu.watch(collective).unwrap();

    let buffer = gpu.numbers(&values(rank, 99), DeviceDtype::F32);
    let graph = captured_sum(gpu, collective, &buffer);
    gpu.stream.synchronize().unwrap();
    assert_eq!(gpu.read_numbers(&buffer), values(rank, 99), "capturing runs nothing");
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    gpu.watch(collective).unwrap();
    assert_eq!(gpu.read_numbers(&buffer), sums(size, 99, (size * size) as f32));
}

#[test]
fn two_and_four_processes_sum_gather_and_broadcast() {
    for size in [2, 4] {
        Group::new(size, "suite").start().into_iter().for_each(|rank| rank.ends_well());
    }
}

#[test]
fn an_operation_can_be_captured_into_a_graph_and_run_again() {
    Group::new(2, "captured").start().into_iter().for_each(|rank| rank.ends_well());
}
