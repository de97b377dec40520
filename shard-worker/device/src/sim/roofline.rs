//! The least time that a rank's share of a step takes: what must be read over the memory's bandwidth, or what must be
//! computed over the peak, whichever is longer, phase by phase.

use std::time::Duration;

use tessera_types::{ModelSpec, ShardPlan};

use super::{SimConfig, accelerator::Figures};
use crate::{Quantization, WeightFormat};

/// What a step asks for.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// Patches of each image to encode.
    pub images: Vec<usize>,
    /// The batch.
    pub chunks: Vec<ChunkWork>,
    /// Rows whose logits are needed.
    pub logits: usize,
}

/// A run of one sequence's tokens.
#[derive(Clone, Copy, Debug)]
pub struct ChunkWork {
    /// Positions before it.
    pub start: usize,
    /// Tokens.
    pub len: usize,
}

/// How long a step takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTime {
    /// Vision encoder and adapter.
    pub encode: Duration,
    /// Decoder.
    pub forward: Duration,
    /// Of both, waiting for other ranks.
    pub collective: Duration,
}

impl StepTime {
    /// The whole step.
    pub fn total(self) -> Duration {
        self.encode + self.forward
    }
}

/// A rank's share of a model on an accelerator.
#[derive(Clone, Debug)]
pub struct Roofline {
    figures: Figures,
    factor: f64,
    tp: f64,
    /// Bytes of a number.
    element: f64,
    /// Bytes of a weight of the decoder's layers, which may be quantised.
    layer_weight: f64,
    decoder: Transformer,
    /// Weights of the output matrix.
    output: f64,
    /// Keys and values of a position, in bytes.
    kv_bytes: f64,
    vision: Option<VisionShare>,
}

/// A rank's share of a stack of layers.
#[derive(Clone, Copy, Debug)]
struct Transformer {
    layers: f64,
    /// Width of the residual stream, which all ranks hold whole.
    width: f64,
    /// Weights that every row meets.
    weights: f64,
    /// Width of what this rank's heads attend to.
    attended: f64,
}

#[derive(Clone, Copy, Debug)]
struct VisionShare {
    encoder: Transformer,
    adapter: f64,
}

impl Roofline {
    /// Of the slice `plan` of a model kept in `format`. Quantised weights are multiplied at the rate of the dtype, since
    /// activations are not quantised.
    pub fn new(config: SimConfig, spec: &ModelSpec, plan: &ShardPlan, format: WeightFormat) -> Self {
        let element = format.dtype.bytes();
        let layer_weight = match format.quantization {
            None => element,
            Some(Quantization::Fp8) => 1,
        };
        let mut figures = config.accelerator.figures();
        // 32-bit numbers are multiplied at half the rate of 16-bit ones, as TF32.
        figures.flops *= 2.0 / element as f64;
        let d = &spec.decoder;
        let heads = (2 * plan.heads.len() + 2 * plan.kv_heads.len()) * d.head_dim;
        let decoder = Transformer {
            layers: d.layers as f64,
            width: d.dim as f64,
            weights: (d.layers * d.dim * (heads + 3 * plan.ffn.len())) as f64,
            attended: (plan.heads.len() * d.head_dim) as f64,
        };
        let vision = spec.vision.as_ref().zip(plan.vision.as_ref()).map(|(v, shard)| {
            let attended = shard.heads.len() * v.head_dim();
            let layers = v.layers * v.dim * (4 * attended + 3 * shard.ffn.len());
            let patches = v.dim * v.channels * v.patch_size * v.patch_size;
            VisionShare {
                encoder: Transformer {
                    layers: v.layers as f64,
                    width: v.dim as f64,
                    weights: (layers + patches) as f64,
                    attended: attended as f64,
                },
                adapter: (shard.adapter.len() * (v.dim + d.dim)) as f64,
            }
        });
        Self {
            figures,
            factor: config.factor,
            tp: plan.tp as f64,
            element: element as f64,
            layer_weight: layer_weight as f64,
            decoder,
            output: (plan.vocab.len() * d.dim) as f64,
            kv_bytes: spec.kv_bytes_per_token(plan.kv_heads.len(), element) as f64,
            vision,
        }
    }

    /// How long a step takes.
    pub fn step(&self, work: &Work) -> StepTime {
        let (encode, encode_waits) = self.encode(&work.images);
        let (forward, forward_waits) = self.forward(work);
        let scaled = |seconds: f64| Duration::from_secs_f64(seconds * self.factor);
        StepTime {
            encode: scaled(encode + encode_waits),
            forward: scaled(forward + forward_waits),
            collective: scaled(encode_waits + forward_waits),
        }
    }

    /// Seconds of work and of waiting.
    fn encode(&self, images: &[usize]) -> (f64, f64) {
        let Some(vision) = self.vision.filter(|_| !images.is_empty()) else { return (0.0, 0.0) };
        let patches = images.iter().sum::<usize>() as f64;
        // Every patch attends to all of its own image.
        let pairs = images.iter().map(|&patches| (patches * patches) as f64).sum();
        let attention = self.seconds(0.0, vision.encoder.attention_flops(pairs));
        let product = |weights| self.product(weights, self.element, patches);
        let work = product(vision.encoder.weights) + attention + product(vision.adapter);
        let adapter = self.all_reduce(patches * self.decoder.width);
        (work, 2.0 * vision.encoder.layers * self.all_reduce(patches * vision.encoder.width) + adapter)
    }

    fn forward(&self, work: &Work) -> (f64, f64) {
        if work.chunks.is_empty() {
            return (0.0, 0.0);
        }
        let rows = work.chunks.iter().map(|chunk| chunk.len).sum::<usize>() as f64;
        let attention: f64 = work.chunks.iter().map(|chunk| self.attend(chunk)).sum();
        let logits = if work.logits > 0 { self.product(self.output, self.element, work.logits as f64) } else { 0.0 };
        let layers = self.product(self.decoder.weights, self.layer_weight, rows);
        let waits = 2.0 * self.decoder.layers * self.all_reduce(rows * self.decoder.width);
        (layers + attention + logits, waits)
    }

    /// A chunk reads the keys and values of all positions up to its end, and each of its tokens attends to those up to
    /// its own.
    fn attend(&self, chunk: &ChunkWork) -> f64 {
        let (start, len) = (chunk.start as f64, chunk.len as f64);
        let pairs = len * start + len * (len + 1.0) / 2.0;
        self.seconds((start + len) * self.kv_bytes, self.decoder.attention_flops(pairs))
    }

    /// Weights of so many bytes each, read once, met by every row.
    fn product(&self, weights: f64, bytes: f64, rows: f64) -> f64 {
        self.seconds(weights * bytes, 2.0 * weights * rows)
    }

    fn seconds(&self, bytes: f64, flops: f64) -> f64 {
        (bytes / self.figures.bandwidth).max(flops / self.figures.flops)
    }

    /// A ring moves every number out and back, but for a rank's own share.
    fn all_reduce(&self, numbers: f64) -> f64 {
        if self.tp == 1.0 {
            return 0.0;
        }
        let bytes = 2.0 * (self.tp - 1.0) / self.tp * numbers * self.element;
        self.figures.all_reduce + bytes / self.figures.link
    }
}

impl Transformer {
    /// Of so many pairs of query and key positions: one product for the scores, one for the values.
    fn attention_flops(&self, pairs: f64) -> f64 {
        4.0 * self.layers * self.attended * pairs
    }
}
