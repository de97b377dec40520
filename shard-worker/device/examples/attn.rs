//! scratch
#![allow(clippy::print_stdout, missing_docs, clippy::unwrap_used)]
use std::time::Instant;
use tessera_device::cpu::*;
use tessera_device::*;
use tessera_types::BlockId;
fn main() {
    let threads = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(1);
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut d = CpuDevice::new(CpuConfig { threads, dtype }).unwrap();
        let heads = Heads { heads: 16, kv_heads: 4, head_dim: 128 };
        let blocks: Vec<_> = (0..256).map(BlockId).collect();
        let mut cache = d.cache(CacheShape { layers: 1, kv_heads: 4, head_dim: 128, blocks: 256, dtype }).unwrap();
        let peak = bench::fma_peak(threads);
        for (start, rows) in [(0, 256), (3840, 256), (0, 4096), (4095, 1), (500, 1)] {
            let mut qkv = d.tensor(rows, heads.fused()).unwrap();
            for (i, x) in d.host_mut(&mut qkv).unwrap().iter_mut().enumerate() { *x = (i % 97) as f32 / 97.0 - 0.5; }
            let mut out = d.tensor(rows, 2048).unwrap();
            let chunk = [ChunkSpan { rows: 0..rows, start, blocks: &blocks }];
            let (mut ts, mut ta) = (f64::MAX, f64::MAX);
            for _ in 0..5 {
                let t = Instant::now();
                d.store(&qkv, heads, &mut cache, 0, &chunk).unwrap();
                ts = ts.min(t.elapsed().as_secs_f64());
                let t = Instant::now();
                d.attend(&qkv, heads, &cache, 0, &chunk, &mut out).unwrap();
                ta = ta.min(t.elapsed().as_secs_f64());
            }
            let keys: usize = (0..rows).map(|r| start + r + 1).sum();
            let flop = (keys * 16 * 128 * 4) as f64;
            println!("{dtype:?} start {start} rows {rows}: store {:.0} us, attend {:.0} us, {:.1} GFLOP/s = {:.2} of peak", ts * 1e6, ta * 1e6, flop / ta / 1e9, flop / ta / peak);
        }
        let heads = Heads { heads: 16, kv_heads: 16, head_dim: 64 };
        let rows = 2048;
        let mut qkv = d.tensor(rows, heads.fused()).unwrap();
        for (i, x) in d.host_mut(&mut qkv).unwrap().iter_mut().enumerate() { *x = (i % 97) as f32 / 97.0 - 0.5; }
        let mut out = d.tensor(rows, 1024).unwrap();
        let t = Instant::now();
        d.attend_images(&qkv, heads, &[0..rows], &mut out).unwrap();
        let ta = t.elapsed().as_secs_f64();
        let flop = (rows * rows * 16 * 64 * 4) as f64;
        println!("images: {:.0} us, {:.1} GFLOP/s = {:.2} of peak", ta * 1e6, flop / ta / 1e9, flop / ta / peak);
    }
}
