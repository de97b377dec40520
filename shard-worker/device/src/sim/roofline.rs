//! The least time that a rank's share of a step takes: what must be read over the memory's bandwidth, or what must be
//! computed over the peak, whichever is longer, phase by phase.

use std::{ops::Add, time::Duration};

use tessera_types::{EncodeCosts, EncodePlan, ModelSpec, ShardPlan, VisionParallel};

use super::{SimConfig, accelerator::Figures};
use crate::{Formats, Quantization};

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

/// How long a step takes: by what is done, and the same time once more by what bounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTime {
    /// Vision encoder and adapter.
    pub encode: Duration,
    /// Decoder.
    pub forward: Duration,
    /// Of both, phases that wait for memory.
    pub memory: Duration,
    /// Phases that wait for products.
    pub arithmetic: Duration,
    /// Waiting for other ranks.
    pub collective: Duration,
}

/// What a step waits for most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Reading weights, keys and values.
    Memory,
    /// Products.
    Arithmetic,
    /// The other ranks.
    Collective,
}

impl StepTime {
    /// The whole step.
    pub fn total(self) -> Duration {
        self.encode + self.forward
    }

    /// What takes the most of it.
    pub fn bound(self) -> Bound {
        if self.collective > self.memory.max(self.arithmetic) {
            Bound::Collective
        } else if self.arithmetic > self.memory {
            Bound::Arithmetic
        } else {
            Bound::Memory
        }
    }
}

/// Seconds by what bounds them.
#[derive(Clone, Copy, Debug, Default)]
struct Seconds {
    memory: f64,
    arithmetic: f64,
    collective: f64,
}

impl Seconds {
    fn waits(collective: f64) -> Self {
        Self { collective, ..Self::default() }
    }

    fn total(self) -> f64 {
        self.memory + self.arithmetic + self.collective
    }
}

impl Add for Seconds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            memory: self.memory + other.memory,
            arithmetic: self.arithmetic + other.arithmetic,
            collective: self.collective + other.collective,
        }
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
    vision: Option<EncodeCosts>,
    parallel: VisionParallel,
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

impl Roofline {
    /// Of the slice `plan` of a model kept in `formats`. Quantised weights, keys and values are multiplied at the rate of the dtype,
    /// since activations are not quantised.
    pub fn new(config: SimConfig, spec: &ModelSpec, plan: &ShardPlan, formats: Formats) -> Self {
        let element = formats.weights.dtype.bytes();
        let layer_weight = match formats.weights.quantization {
            None => element,
            Some(Quantization::Fp8) => 1,
        };
        let mut figures = config.accelerator.figures();
        figures.flops = figures.flops_with(element as f64);
        let d = &spec.decoder;
        let heads = (2 * plan.heads.len() + 2 * plan.kv_heads.len()) * d.head_dim;
        let decoder = Transformer {
            layers: d.layers as f64,
            width: d.dim as f64,
            weights: (d.layers * d.dim * (heads + 3 * plan.ffn.len())) as f64,
            attended: (plan.heads.len() * d.head_dim) as f64,
        };
        Self {
            figures,
            factor: config.factor,
            tp: plan.tp as f64,
            element: element as f64,
            layer_weight: layer_weight as f64,
            decoder,
            output: (plan.vocab.len() * d.dim) as f64,
            kv_bytes: spec.kv_bytes_per_token(plan.kv_heads.len(), formats.cache.bytes(d.head_dim)) as f64,
            vision: EncodeCosts::new(spec, config.accelerator.group_figures(element)),
            parallel: plan.vision_parallel,
        }
    }

    /// How long a step takes.
    pub fn step(&self, work: &Work) -> StepTime {
        let (encode, forward) = (self.encode(&work.images), self.forward(work));
        let all = encode + forward;
        let scaled = |seconds: f64| Duration::from_secs_f64(seconds * self.factor);
        StepTime {
            encode: scaled(encode.total()),
            forward: scaled(forward.total()),
            memory: scaled(all.memory),
            arithmetic: scaled(all.arithmetic),
            collective: scaled(all.collective),
        }
    }

    /// Shared as real ranks share it.
    fn encode(&self, images: &[usize]) -> Seconds {
        let Some(costs) = &self.vision else { return Seconds::default() };
        let plan = EncodePlan::new(images, self.tp as usize, self.parallel, costs);
        let time = costs.time(&plan, images);
        Seconds { memory: time.reads, arithmetic: time.work - time.reads, collective: time.waits }
    }

    fn forward(&self, work: &Work) -> Seconds {
        if work.chunks.is_empty() {
            return Seconds::default();
        }
        let rows = work.chunks.iter().map(|chunk| chunk.len).sum::<usize>() as f64;
        let attention = work.chunks.iter().map(|chunk| self.attend(chunk)).fold(Seconds::default(), Add::add);
        let logits =
            if work.logits > 0 { self.product(self.output, self.element, work.logits as f64) } else { Seconds::default() };
        let layers = self.product(self.decoder.weights, self.layer_weight, rows);
        let waits = 2.0 * self.decoder.layers * self.all_reduce(rows * self.decoder.width);
        layers + attention + logits + Seconds::waits(waits)
    }

    /// A chunk reads the keys and values of all positions up to its end, and each of its tokens attends to those up to
    /// its own.
    fn attend(&self, chunk: &ChunkWork) -> Seconds {
        let (start, len) = (chunk.start as f64, chunk.len as f64);
        let pairs = len * start + len * (len + 1.0) / 2.0;
        self.seconds((start + len) * self.kv_bytes, self.decoder.attention_flops(pairs))
    }

    /// Weights of so many bytes each, read once, met by every row.
    fn product(&self, weights: f64, bytes: f64, rows: f64) -> Seconds {
        self.seconds(weights * bytes, 2.0 * weights * rows)
    }

    /// Of a phase that reads and computes at once.
    fn seconds(&self, bytes: f64, flops: f64) -> Seconds {
        let (memory, arithmetic) = (bytes / self.figures.bandwidth, flops / self.figures.flops);
        if memory >= arithmetic { Seconds { memory, ..Seconds::default() } } else { Seconds { arithmetic, ..Seconds::default() } }
    }

    /// Seconds. A ring moves every number out and back, but for a rank's own share.
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
