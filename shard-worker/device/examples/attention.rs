//! Prints what attention reaches of the multiply-adds the machine allows: `attention [THREADS]`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use tessera_device::cpu::{CpuConfig, CpuDevice, CpuTensor, bench};
use tessera_device::{CacheShape, ChunkSpan, Device, DeviceError, Dtype, Heads};
use tessera_types::BlockId;

const TURNS: usize = 5;
const BLOCKS: u32 = 256;

fn main() -> Result<(), DeviceError> {
    let threads = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(2);
    let mut device = CpuDevice::new(CpuConfig { threads, dtype: Dtype::Bf16 })?;
    println!("{} on {threads} threads", device.isa().name());
    let heads = Heads { heads: 16, kv_heads: 4, head_dim: 128 };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (start, rows) in [(0, 256), (3840, 256), (0, 4096), (500, 1), (4095, 1)] {
            causal(&mut device, heads, dtype, start, rows)?;
        }
    }
    for patches in [256, 4096] {
        images(&device, Heads { heads: 16, kv_heads: 16, head_dim: 64 }, patches)?;
    }
    Ok(())
}

fn causal(device: &mut CpuDevice, heads: Heads, dtype: Dtype, start: usize, rows: usize) -> Result<(), DeviceError> {
    let blocks: Vec<_> = (0..BLOCKS).map(BlockId).collect();
    let shape =
        CacheShape { layers: 1, kv_heads: heads.kv_heads, head_dim: heads.head_dim, blocks: blocks.len(), dtype: dtype.into() };
    let mut cache = device.cache(shape)?;
    let qkv = random(device, rows, heads)?;
    let mut out = device.tensor(rows, heads.heads * heads.head_dim)?;
    let chunk = [ChunkSpan { rows: 0..rows, start, blocks: &blocks }];
    let keys: usize = (start + 1..=start + rows).sum();
    let what = format!("{dtype:?}, {rows} rows from {start}");
    report(device, &what, keys, heads, |device| {
        device.store(&qkv, heads, &mut cache, 0, &chunk)?;
        device.attend(&qkv, heads, &cache, 0, &chunk, &mut out)
    })
}

fn images(device: &CpuDevice, heads: Heads, patches: usize) -> Result<(), DeviceError> {
    let qkv = random(device, patches, heads)?;
    let mut out = device.tensor(patches, heads.heads * heads.head_dim)?;
    let image = 0..patches;
    let image = std::slice::from_ref(&image);
    report(device, &format!("an image of {patches} patches"), patches * patches, heads, |device| {
        device.attend_images(&qkv, heads, image, &mut out)
    })
}

fn random(device: &CpuDevice, rows: usize, heads: Heads) -> Result<CpuTensor, DeviceError> {
    let mut qkv = device.tensor(rows, heads.fused())?;
    let values: Vec<f32> = (0..rows * heads.fused()).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect();
    device.write(&mut qkv, &values)?;
    Ok(qkv)
}

/// Times `work`, which scores `keys` pairs of a query row and a key.
fn report(
    device: &CpuDevice,
    what: &str,
    keys: usize,
    heads: Heads,
    mut work: impl FnMut(&CpuDevice) -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        peaks.push(bench::fma_peak(device.config().threads));
        let begun = Instant::now();
        work(device)?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    peaks.sort_by(f64::total_cmp);
    let (seconds, peak) = (times[TURNS / 2], peaks[TURNS / 2]);
    let flops = (4 * keys * heads.heads * heads.head_dim) as f64 / seconds;
    println!("{what}: {:.0} us, {:.0} GFLOP/s = {:.2}", seconds * 1e6, flops / 1e9, flops / peak);
    Ok(())
}
