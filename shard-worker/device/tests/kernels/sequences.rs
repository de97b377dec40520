//! Sequences in a cache, and what attention over them must be.

use tessera_device::cuda::{CudaCache, CudaDevice, CudaRotary};
use tessera_device::{CacheDtype, CacheShape, ChunkSpan, Device, DeviceError, Heads, Rows, Spans};
use tessera_types::{BLOCK_TOKENS, BlockId, TokenId};

use crate::numbers;

/// Rows that are stored at a time.
const PIECE: usize = 2048;
const THETA: f64 = 1e9;

/// Which of the sequences, and which of its positions.
pub(crate) type Chunk = (usize, std::ops::Range<usize>);

/// Sequences whose keys and values are in the cache.
pub(crate) struct Sequences {
    pub(crate) heads: Heads,
    lengths: Vec<usize>,
    blocks: Vec<Vec<BlockId>>,
    cache: CudaCache,
    rotary: CudaRotary,
}

/// Fused rows of sequence `id` from position `first`, before they are turned.
fn fused(heads: Heads, id: usize, positions: std::ops::Range<usize>) -> Vec<f32> {
    let columns = heads.fused();
    numbers(10 + id as u64, positions.start * columns..positions.end * columns)
}

impl Sequences {
    pub(crate) fn new(device: &mut CudaDevice, heads: Heads, dtype: CacheDtype, lengths: &[usize]) -> Self {
        let mut next = 0;
        let blocks: Vec<Vec<BlockId>> = lengths
            .iter()
            .map(|length| {
                let count = length.div_ceil(BLOCK_TOKENS) as u32;
                next += count;
                // Backwards, so that no kernel gets by without the table.
                (next - count..next).rev().map(BlockId).collect()
            })
            .collect();
        let shape = CacheShape { layers: 1, kv_heads: heads.kv_heads, head_dim: heads.head_dim, blocks: next as usize, dtype };
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (cache, rotary) = (device.cache(shape).unwrap(), device.rotary(heads.head_dim, THETA, longest).unwrap());
        let mut sequences = Self { heads, lengths: lengths.to_vec(), blocks, cache, rotary };
        for (id, length) in lengths.iter().enumerate() {
            for first in (0..*length).step_by(PIECE) {
                sequences.store(device, id, first..(first + PIECE).min(*length));
            }
        }
        sequences
    }

    fn store(&mut self, device: &CudaDevice, id: usize, range: std::ops::Range<usize>) {
        let positions: Vec<u32> = range.clone().map(|position| position as u32).collect();
        let span = [ChunkSpan { rows: 0..range.len(), start: range.start, blocks: &self.blocks[id] }];
        let placed = device.place(Rows { tokens: &[], positions: &positions, spans: Spans::Chunks(&span) }).unwrap();
        let mut qkv = device.working(range.len(), self.heads.fused()).unwrap();
        device.write(&mut qkv, &fused(self.heads, id, range)).unwrap();
        device.rotate_and_store(&mut qkv, self.heads, &self.rotary, &mut self.cache, 0, &placed).unwrap();
    }

    /// Positions, fused rows and spans of chunks in one pass.
    fn pass(&self, chunks: &[Chunk]) -> (Vec<u32>, Vec<f32>, Vec<ChunkSpan<'_>>) {
        let (mut positions, mut values, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for (id, range) in chunks {
            let rows = positions.len()..positions.len() + range.len();
            spans.push(ChunkSpan { rows, start: range.start, blocks: &self.blocks[*id] });
            positions.extend(range.clone().map(|position| position as u32));
            values.extend(fused(self.heads, *id, range.clone()));
        }
        (positions, values, spans)
    }

    /// Attention of chunks in one pass, row after row.
    pub(crate) fn attend(&self, device: &CudaDevice, chunks: &[Chunk]) -> Vec<f32> {
        let (positions, values, spans) = self.pass(chunks);
        let placed = device.place(Rows { tokens: &[], positions: &positions, spans: Spans::Chunks(&spans) }).unwrap();
        let mut qkv = device.working(positions.len(), self.heads.fused()).unwrap();
        device.write(&mut qkv, &values).unwrap();
        device.rotate(&mut qkv, self.heads, &self.rotary, &placed).unwrap();
        let mut out = device.working(positions.len(), self.heads.heads * self.heads.head_dim).unwrap();
        device.attend(&qkv, self.heads, &self.cache, 0, &placed, &mut out).unwrap();
        device.read(&out).unwrap()
    }

    /// Attention of passes of `rows` next tokens each, of which the first is recorded and replayed for all.
    pub(crate) fn replayed(&self, device: &CudaDevice, rows: usize, passes: &[Vec<Chunk>]) -> Vec<Vec<f32>> {
        let mut qkv = device.working(rows, self.heads.fused()).unwrap();
        let mut out = device.working(rows, self.heads.heads * self.heads.head_dim).unwrap();
        let mut recorded = None;
        let replay = passes.iter().map(|chunks| {
            let (positions, values, spans) = self.pass(chunks);
            let tokens = vec![Some(TokenId(0)); rows];
            let placed = device.place(Rows { tokens: &tokens, positions: &positions, spans: Spans::Chunks(&spans) }).unwrap();
            device.write(&mut qkv, &values).unwrap();
            device.rotate(&mut qkv, self.heads, &self.rotary, &placed).unwrap();
            let key = device.recording(&placed).unwrap();
            let (known, recording) = recorded.get_or_insert_with(|| {
                let work = || {
                    device.attend(&qkv, self.heads, &self.cache, 0, &placed, &mut out)?;
                    device.working(1, 1)
                };
                (key, device.record::<DeviceError>(work).unwrap().1)
            });
            assert_eq!(*known, key, "{chunks:?}");
            device.replay(recording).unwrap();
            device.read(&out).unwrap()
        });
        replay.collect()
    }

    /// All fused rows of a sequence, turned.
    pub(crate) fn turned(&self, device: &CudaDevice, id: usize) -> Vec<f32> {
        let length = self.lengths[id];
        let pieces = (0..length).step_by(PIECE).map(|first| first..(first + PIECE).min(length));
        let turned = pieces.flat_map(|range| {
            let positions: Vec<u32> = range.clone().map(|position| position as u32).collect();
            let span = [ChunkSpan { rows: 0..range.len(), start: range.start, blocks: &self.blocks[id] }];
            let placed = device.place(Rows { tokens: &[], positions: &positions, spans: Spans::Chunks(&span) }).unwrap();
            let mut qkv = device.working(range.len(), self.heads.fused()).unwrap();
            device.write(&mut qkv, &fused(self.heads, id, range)).unwrap();
            device.rotate(&mut qkv, self.heads, &self.rotary, &placed).unwrap();
            device.read(&qkv).unwrap()
        });
        turned.collect()
    }
}

/// Attention of a head of row `row` to rows `seen` of fused rows, in f64.
pub(crate) fn exact(qkv: &[f32], heads: Heads, head: usize, row: usize, seen: std::ops::Range<usize>) -> Vec<f64> {
    let (columns, width) = (heads.fused(), heads.head_dim);
    let at = |row: usize, head: usize| qkv[row * columns + head * width..][..width].iter().map(|x| f64::from(*x));
    let key_head = heads.heads + head / (heads.heads / heads.kv_heads);
    let score = |key| at(row, head).zip(at(key, key_head)).map(|(q, k)| q * k).sum::<f64>() / (width as f64).sqrt();
    let weights: Vec<f64> = seen.clone().map(|key| f64::exp(score(key))).collect();
    let (sum, mut out) = (weights.iter().sum::<f64>(), vec![0.0; width]);
    for (key, weight) in seen.zip(&weights) {
        out.iter_mut().zip(at(key, key_head + heads.kv_heads)).for_each(|(out, value)| *out += weight / sum * value);
    }
    out
}

/// The number of e4m3 nearest to x, at most 448 from zero: steps of 2^-9 below 2^-6, and from there on 8 to a power of two.
fn e4m3(x: f32) -> f32 {
    let exponent = x.abs().log2().floor().max(-6.0);
    let step = (exponent - 3.0).exp2();
    (x / step).round_ties_even() * step
}

/// Turned keys, and values, of fused rows become what a cache in fp8 keeps of them, each head's largest number 448 times its scale.
pub(crate) fn kept_in_fp8(turned: &mut [f32], heads: Heads) {
    for row in turned.chunks_mut(heads.fused()) {
        for head in row[heads.heads * heads.head_dim..].chunks_mut(heads.head_dim) {
            let scale = head.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 448.0;
            head.iter_mut().for_each(|x| *x = e4m3(*x / scale) * scale);
        }
    }
}
