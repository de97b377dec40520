//! Prints what the kernels reach of what the machine allows, on the layers of a 1B decoder:
//! `limits [THREADS [ROWS...]]`. Kernels and limits take turns, so that a busy machine slows both.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use tessera_device::cpu::{CpuConfig, CpuDevice, CpuMatrix, bench};
use tessera_device::{Device, DeviceError, Dtype, MatrixSource, Origin, SourceDtype};

const DIM: usize = 2048;
const FFN: usize = 5632;
const LAYERS: usize = 16;
const TURNS: usize = 9;
/// Rows from which arithmetic is the limit.
const MANY: usize = 64;

fn main() -> Result<(), DeviceError> {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let threads = numbers.next().unwrap_or(2);
    let mut rows: Vec<usize> = numbers.collect();
    if rows.is_empty() {
        rows = vec![1, 2, 4, 8, 16, 32, 64, 256];
    }
    let mut device = CpuDevice::new(CpuConfig { threads, dtype: Dtype::Bf16 })?;
    let model = Model::new(&mut device)?;
    println!("{} on {threads} threads, {:.2} GB of weights", device.isa().name(), model.bytes / 1e9);

    let (mut bandwidth, mut peak) = (Vec::new(), Vec::new());
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..TURNS {
        bandwidth.push(bench::gemv_bandwidth(threads, 1 << 29)?);
        peak.push(bench::fma_peak(threads) / 1e9);
        for (rows, times) in rows.iter().zip(&mut times) {
            times.push(model.step(&device, *rows)?);
        }
    }
    let (bandwidth, peak) = (middle(&mut bandwidth), middle(&mut peak));
    println!("limits: {bandwidth:.1} GB/s, {peak:.0} GFLOP/s (medians)");
    let one = rows.first().map_or(1, |rows| *rows) as f64 / times.first_mut().map_or(1.0, |times| middle(times));
    for (rows, times) in rows.iter().zip(&mut times) {
        let seconds = middle(times);
        let (speed, rate) = (model.bytes / seconds / 1e9, *rows as f64 / seconds);
        if *rows < MANY {
            println!(
                "{rows:5} rows: {speed:6.1} GB/s = {:.2}; {rate:7.1} rows/s = {:.2} x the first",
                speed / bandwidth,
                rate / one
            );
        } else {
            println!(
                "{rows:5} rows: {:6.0} GFLOP/s = {:.2}; {rate:7.1} rows/s",
                rate * model.bytes / 1e9,
                rate * model.bytes / 1e9 / peak
            );
        }
    }
    Ok(())
}

/// The median.
fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
            let source = MatrixSource {
                origin: Origin::Stored { bytes: &file, dtype: SourceDtype::Bf16 },
                stride: inner,
                rows,
                columns: 0..inner,
            };
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

    /// Seconds of one step's products.
    fn step(&self, device: &CpuDevice, rows: usize) -> Result<f64, DeviceError> {
        let (x, hidden) = (device.tensor(rows, DIM)?, device.tensor(rows, FFN)?);
        let begun = Instant::now();
        for [qkv, o, gate_up, down] in &self.layers {
            for (weight, out, x) in [(qkv, DIM + 1024, &x), (o, DIM, &x), (gate_up, 2 * FFN, &x), (down, DIM, &hidden)] {
                device.matmul(x, weight, &mut device.tensor(rows, out)?)?;
            }
        }
        device.matmul(&x, &self.output, &mut device.tensor(rows, 32768)?)?;
        Ok(begun.elapsed().as_secs_f64())
    }
}
