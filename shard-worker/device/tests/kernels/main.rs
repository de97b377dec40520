//! The kernels through the device itself: the same bits whichever kernel computes a row, and near the exact result.
//!
//! Without a GPU they run on the CPU, at sizes to match; `tests/gpu.sh` runs them on hardware at Pixtral's.

#![allow(clippy::unwrap_used, reason = "a test may panic and say why")]

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod choosing;
mod images;
mod loading;
mod peers;
mod products;
mod sequences;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tessera_device::cuda::{CudaConfig, CudaDevice};
use tessera_device::{Dtype, Quantization, WeightFormat};

const BF16: WeightFormat = WeightFormat { dtype: Dtype::Bf16, quantization: None };
const FP8: WeightFormat = WeightFormat { dtype: Dtype::Bf16, quantization: Some(Quantization::Fp8) };

/// Bytes that the tests compute with: at real sizes, what a pass of 8192 rows takes.
fn workspace() -> usize {
    if tessera_test_gpu::is_real() { 6 << 30 } else { 64 << 20 }
}

fn device(workspace: usize, records: bool) -> CudaDevice {
    device_of(BF16, workspace, records)
}

fn device_of(format: WeightFormat, workspace: usize, records: bool) -> CudaDevice {
    tessera_test_gpu::open();
    let kernels = Some(tessera_test_gpu::kernels());
    let config = CudaConfig { ordinal: 0, kernels, workspace: Some(workspace), records, overlaps: true, peers: true };
    CudaDevice::new(&config, format).unwrap()
}

/// Tests of one process take turns, so that each has the GPU's memory to itself.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number `i` of a matrix, from -1 to 1 in steps that bf16 has.
fn number(seed: u64, i: usize) -> f32 {
    let mut x = (i as u64 ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x >> 56) as f32 - 127.5) / 128.0
}

fn numbers(seed: u64, range: std::ops::Range<usize>) -> Vec<f32> {
    range.map(|i| number(seed, i)).collect()
}

/// Fails unless `got` is `wanted` but for the rounding to bf16 and what sums of f32 lose of terms of such size.
fn assert_near(got: f32, wanted: f64, size: f64, what: &str) {
    let error = (f64::from(got) - wanted).abs();
    assert!(error <= wanted.abs() / 200.0 + size / 1e5, "{what}: {got:e}, not {wanted:e}");
}
