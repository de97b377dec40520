//! Attention over the paged cache, and over images.

#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init, reason = "a test may panic; one image is one range")]

mod common;

use std::ops::Range;

use common::*;
use proptest::prelude::*;
use tessera_device::cpu::CpuDevice;
use tessera_device::{CacheShape, ChunkSpan, Device, Dtype, Heads};
use tessera_types::{BLOCK_TOKENS, BlockId};

/// Attention of the rows of one sequence or image in f64, `visible(row)` keys each.
fn exact(qkv: &[f32], heads: Heads, dtype: Dtype, visible: impl Fn(usize) -> usize) -> Vec<f64> {
    let Heads { heads: count, kv_heads, head_dim } = heads;
    let part = |row: usize, head: usize| &qkv[row * heads.fused() + head * head_dim..][..head_dim];
    let rows = qkv.len() / heads.fused();
    let mut out = Vec::new();
    for row in 0..rows {
        for head in 0..count {
            let group = head / (count / kv_heads);
            let dot = |key: usize| -> f64 {
                let pairs = part(row, head).iter().zip(part(key, count + group));
                pairs.map(|(q, k)| f64::from(*q) * f64::from(kept(*k, dtype))).sum::<f64>() / (head_dim as f64).sqrt()
            };
            let scores: Vec<f64> = (0..visible(row)).map(dot).collect();
            let highest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let value = |key: usize| f64::from(kept(part(key, count + kv_heads + group)[d], dtype));
                out.push(weights.iter().enumerate().map(|(key, w)| w * value(key)).sum::<f64>() / total);
            }
        }
    }
    out
}

/// A sequence's fused rows and its blocks.
struct Sequence {
    qkv: Vec<f32>,
    blocks: Vec<BlockId>,
}

struct Case {
    heads: Heads,
    dtype: Dtype,
    blocks: usize,
    sequences: Vec<Sequence>,
}

impl Case {
    fn new(random: &mut Random, heads: Heads, dtype: Dtype, lengths: &[usize]) -> Self {
        let counts = lengths.iter().map(|rows| rows.div_ceil(BLOCK_TOKENS));
        let blocks = counts.clone().sum::<usize>() + 3;
        let mut free: Vec<_> = (0..blocks as u32).map(BlockId).collect();
        let sequences = lengths.iter().zip(counts).map(|(rows, count)| Sequence {
            qkv: random.numbers(rows * heads.fused()),
            blocks: (0..count).map(|_| free.swap_remove(random.below(free.len()))).collect(),
        });
        let sequences = sequences.collect();
        Self { heads, dtype, blocks, sequences }
    }

    /// Computes all sequences in steps; each step is a batch of chunks `(sequence, rows)`.
    fn run(&self, device: &mut CpuDevice, steps: &[Vec<(usize, Range<usize>)>]) -> Vec<Vec<f32>> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let shape = CacheShape { layers: 2, kv_heads, head_dim, blocks: self.blocks, dtype: self.dtype.into() };
        let mut cache = device.cache(shape).unwrap();
        let mut results: Vec<Vec<f32>> = self.sequences.iter().map(|_| Vec::new()).collect();
        for step in steps {
            let mut batch = Vec::new();
            let mut chunks = Vec::new();
            for (sequence, rows) in step {
                let first = batch.len() / self.heads.fused();
                let sequence = &self.sequences[*sequence];
                batch.extend_from_slice(&sequence.qkv[rows.start * self.heads.fused()..rows.end * self.heads.fused()]);
                chunks.push(ChunkSpan { rows: first..first + rows.len(), start: rows.start, blocks: &sequence.blocks });
            }
            let qkv = tensor(device, &batch, self.heads.fused());
            let width = heads * head_dim;
            let mut out = device.tensor(device.shape(&qkv).0, width).unwrap();
            device.store(&qkv, self.heads, &mut cache, 1, &chunks).unwrap();
            device.attend(&qkv, self.heads, &cache, 1, &chunks, &mut out).unwrap();
            let out = device.read(&out).unwrap();
            for ((sequence, _), chunk) in step.iter().zip(&chunks) {
                results[*sequence].extend_from_slice(&out[chunk.rows.start * width..chunk.rows.end * width]);
            }
        }
        results
    }

    /// Every sequence by itself in one chunk.
    fn alone(&self) -> Vec<Vec<(usize, Range<usize>)>> {
        let rows = |i: usize| self.sequences[i].qkv.len() / self.heads.fused();
        (0..self.sequences.len()).map(|i| vec![(i, 0..rows(i))]).collect()
    }

    /// Random chunks of random sequences, several in a step.
    fn mixed(&self, random: &mut Random) -> Vec<Vec<(usize, Range<usize>)>> {
        let mut done = vec![0; self.sequences.len()];
        let mut steps = Vec::new();
        loop {
            let mut step = Vec::new();
            for (i, sequence) in self.sequences.iter().enumerate() {
                let left = sequence.qkv.len() / self.heads.fused() - done[i];
                if left > 0 && random.below(4) > 0 {
                    let most = [1, 3, 20, 200][random.below(4)];
                    let rows = 1 + random.below(left.min(most));
                    step.push((i, done[i]..done[i] + rows));
                    done[i] += rows;
                }
            }
            if !step.is_empty() {
                steps.push(step);
            } else if done.iter().zip(&self.sequences).all(|(done, s)| *done == s.qkv.len() / self.heads.fused()) {
                return steps;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn chunks_batches_threads_and_instruction_sets_never_show(
        seed: u64, group in 1..5_usize, kv_heads in 1..4_usize, half_width in 1..36_usize, bf16: bool,
    ) {
        let mut random = Random(seed);
        let heads = Heads { heads: group * kv_heads, kv_heads, head_dim: 2 * half_width };
        let dtype = if bf16 { Dtype::Bf16 } else { Dtype::F32 };
        let lengths: Vec<_> = (0..3).map(|_| 1 + random.below(300)).collect();
        let case = Case::new(&mut random, heads, dtype, &lengths);
        let wanted = case.run(&mut device(1, dtype), &case.alone());
        for (sequence, wanted) in case.sequences.iter().zip(&wanted) {
            assert_close(wanted, &exact(&sequence.qkv, heads, dtype, |row| row + 1), 2e-6, "against f64");
        }
        for mut device in devices(dtype) {
            let got = case.run(&mut device, &case.mixed(&mut random));
            for (got, wanted) in got.iter().zip(&wanted) {
                assert_same(got, wanted, &name(&device));
            }
        }
    }

    #[test]
    fn images_see_themselves_and_nothing_else(seed: u64, heads in 1..4_usize, half_width in 1..36_usize) {
        let mut random = Random(seed);
        let heads = Heads { heads, kv_heads: heads, head_dim: 2 * half_width };
        let lengths = [1 + random.below(40), 1 + random.below(300), 16, 128];
        let mut images = Vec::new();
        let mut rows = 0;
        for length in lengths {
            images.push(rows..rows + length);
            rows += length;
        }
        let qkv = random.numbers(rows * heads.fused());
        let wanted: Vec<f64> = images
            .iter()
            .flat_map(|image| exact(&qkv[image.start * heads.fused()..image.end * heads.fused()], heads, Dtype::F32, |_| image.len()))
            .collect();
        let mut first: Option<Vec<f32>> = None;
        for device in devices(Dtype::Bf16) {
            let x = tensor(&device, &qkv, heads.fused());
            let mut out = device.tensor(rows, heads.heads * heads.head_dim).unwrap();
            device.attend_images(&x, heads, &images, &mut out).unwrap();
            let got = device.read(&out).unwrap();
            assert_close(&got, &wanted, 2e-6, &name(&device));
            assert_same(&got, first.get_or_insert_with(|| got.clone()), &name(&device));
        }
    }
}

#[test]
fn stale_blocks_never_leak_into_a_new_sequence() {
    let mut random = Random(3);
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 20 };
    let mut case = Case::new(&mut random, heads, Dtype::F32, &[37, 21]);
    // The second sequence takes the first one's blocks, which are full of NaN.
    case.sequences[0].qkv.fill(f32::NAN);
    case.sequences[1].blocks = case.sequences[0].blocks.clone();
    let rows = vec![vec![(0, 0..37)], vec![(1, 0..5)], vec![(1, 5..21)]];
    for mut device in devices(Dtype::F32) {
        let got = case.run(&mut device, &rows);
        assert!(got[0].iter().all(|x| x.is_nan()));
        assert_close(&got[1], &exact(&case.sequences[1].qkv, heads, Dtype::F32, |row| row + 1), 2e-6, &name(&device));
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    let mut random = Random(4);
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 16 };
    let mut case = Case::new(&mut random, heads, Dtype::F32, &[290]);
    for x in &mut case.sequences[0].qkv {
        *x *= 40.0;
    }
    let got = case.run(&mut device(2, Dtype::F32), &case.alone());
    assert_close(&got[0], &exact(&case.sequences[0].qkv, heads, Dtype::F32, |row| row + 1), 1e-4, "scores in the thousands");
}

#[test]
fn an_empty_batch_and_an_empty_image_are_nothing() {
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 4 };
    let mut device = device(2, Dtype::F32);
    let mut cache =
        device.cache(CacheShape { layers: 1, kv_heads: 1, head_dim: 4, blocks: 0, dtype: Dtype::Bf16.into() }).unwrap();
    let qkv = device.tensor(0, heads.fused()).unwrap();
    let mut out = device.tensor(0, 8).unwrap();
    device.store(&qkv, heads, &mut cache, 0, &[]).unwrap();
    device.attend(&qkv, heads, &cache, 0, &[], &mut out).unwrap();
    device.attend_images(&qkv, heads, &[0..0], &mut out).unwrap();
}

#[test]
fn chunks_that_do_not_fit_are_refused() {
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 4 };
    let mut device = device(1, Dtype::F32);
    let mut cache =
        device.cache(CacheShape { layers: 1, kv_heads: 1, head_dim: 4, blocks: 2, dtype: Dtype::F32.into() }).unwrap();
    let qkv = device.tensor(4, heads.fused()).unwrap();
    let (block, far) = ([BlockId(1)], [BlockId(2)]);
    let mut refused = |chunks: &[ChunkSpan<'_>], layer: usize| {
        assert!(device.store(&qkv, heads, &mut cache, layer, chunks).is_err(), "{chunks:?}");
    };
    let chunk = |rows: Range<usize>, start| ChunkSpan { rows, start, blocks: &block };
    refused(&[chunk(0..5, 0)], 0);
    refused(&[chunk(0..4, 13)], 0);
    refused(&[chunk(0..2, 0), chunk(1..3, 2)], 0);
    refused(&[ChunkSpan { rows: 0..1, start: 0, blocks: &far }], 0);
    refused(&[chunk(0..4, 0)], 1);
    device.store(&qkv, heads, &mut cache, 0, &[chunk(0..4, 12)]).unwrap();
    let mut out = device.tensor(4, 4).unwrap();
    assert!(device.attend_images(&qkv, heads, &[0..5], &mut out).is_err());
    assert!(device.attend_images(&qkv, heads, &[2..4, 0..2], &mut out).is_ok());
}
