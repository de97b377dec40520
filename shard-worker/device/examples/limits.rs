//! Prints what the kernels reach of what the machine allows, on the layers of a 1B decoder. `limits [THREADS]`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use tessera_device::cpu::{CpuConfig, CpuDevice, CpuMatrix, bench};
use tessera_device::{Device, DeviceError, Dtype, MatrixSource, SourceDtype};

const DIM: usize = 2048;
const FFN: usize = 5632;
const LAYERS: usize = 16;

fn main() -> Result<(), DeviceError> {
    let threads = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(2);
    let mut device = CpuDevice::new(CpuConfig { threads, dtype: Dtype::Bf16 })?;
    let model = Model::new(&mut device)?;
    println!("{} on {threads} threads, {:.2} GB of weights", device.isa().name(), model.bytes / 1e9);
    let mut one = 0.0;
    for rows in rows_wanted() {
        let before = bench::gemv_bandwidth(threads, 1 << 30)?;
        let seconds = model.step(&device, rows)?;
        let after = bench::gemv_bandwidth(threads, 1 << 30)?;
        let (limit, speed) = ((before + after) / 2.0, model.bytes / seconds / 1e9);
        if rows == 1 {
            one = rows as f64 / seconds;
        }
        println!(
            "{rows:4} rows: {speed:5.1} GB/s of {limit:5.1} ({before:.1}, {after:.1}) = {:.2}; {:6.1} rows/s = {:.2} x one",
            speed / limit,
            rows as f64 / seconds,
            rows as f64 / seconds / one,
        );
    }
    for rows in rows_wanted().into_iter().filter(|r| *r > 60) {
        let before = bench::fma_peak(threads);
        let seconds = model.step(&device, rows)?;
        let after = bench::fma_peak(threads);
        let (limit, speed) = ((before + after) / 2e9, model.bytes * rows as f64 / seconds / 1e9);
        println!("{rows:4} rows: {speed:5.0} GFLOP/s of {limit:5.0} = {:.2}", speed / limit);
    }
    Ok(())
}

/// Layers of different weights, so that they come from memory.
struct Model {
    layers: Vec<[CpuMatrix; 4]>,
    output: CpuMatrix,
    bytes: f64,
}

impl Model {
    fn new(device: &mut CpuDevice) -> Result<Self, DeviceError> {
        let file = vec![0x3c; 2 * 32768 * DIM];
        let mut bytes = 0.0;
        let mut weight = |out: usize, inner: usize, segments: &[usize]| {
            bytes += (2 * out * inner) as f64;
            let rows = (0..out as u32).collect();
            let source = MatrixSource { bytes: &file, dtype: SourceDtype::Bf16, stride: inner, rows, columns: 0..inner };
            device.load_matrix(&[source], segments)
        };
        let eighths = |inner: usize| (0..=8).map(|i| i * inner / 8).collect::<Vec<_>>();
        let mut layers = Vec::new();
        for _ in 0..LAYERS {
            layers.push([
                weight(DIM + 1024, DIM, &[0, DIM])?,
                weight(DIM, DIM, &eighths(DIM))?,
                weight(2 * FFN, DIM, &[0, DIM])?,
                weight(DIM, FFN, &eighths(FFN))?,
            ]);
        }
        let output = weight(32768, DIM, &[0, DIM])?;
        Ok(Self { layers, output, bytes })
    }

    /// Seconds of a step's products, the best of a few.
    fn step(&self, device: &CpuDevice, rows: usize) -> Result<f64, DeviceError> {
        let (x, hidden) = (device.tensor(rows, DIM)?, device.tensor(rows, FFN)?);
        let mut times = Vec::new();
        for _ in 0..if rows > 32 { 2 } else { 10 } {
            let begun = Instant::now();
            for [qkv, o, gate_up, down] in &self.layers {
                for (weight, out, x) in [(qkv, DIM + 1024, &x), (o, DIM, &x), (gate_up, 2 * FFN, &x), (down, DIM, &hidden)] {
                    device.matmul(x, weight, &mut device.tensor(rows, out)?)?;
                }
            }
            device.matmul(&x, &self.output, &mut device.tensor(rows, 32768)?)?;
            times.push(begun.elapsed().as_secs_f64());
        }
        Ok(times.into_iter().fold(f64::INFINITY, f64::min))
    }
}

fn rows_wanted() -> Vec<usize> {
    std::env::args().skip(2).filter_map(|arg| arg.parse().ok()).collect()
}
