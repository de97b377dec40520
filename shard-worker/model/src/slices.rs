//! Which slice of which tensor a rank holds, by Mistral's names. Pure: nothing is read here.
//!
//! What may be quantised is decided here, as is usual: the products of the decoder's layers, most of what a token reads. Not
//! the embedding, nor the output matrix, whose errors no later layer evens out, nor the vision encoder and the adapter, which
//! run once an image.

use std::ops::Range;

use tessera_device::WeightFormat;
use tessera_types::{ModelSpec, ShardPlan, VisionParallel, VisionShard, VisionSpec, segment_bounds};

use crate::checkpoint::TensorSlice;

/// All slices of a rank.
#[derive(Clone, Debug)]
pub(crate) struct ShardSlices {
    pub(crate) embedding: TensorSlice,
    pub(crate) layers: Vec<LayerSlices>,
    pub(crate) norm: TensorSlice,
    pub(crate) output: TensorSlice,
    /// The rank's part of the vision encoder, where ranks encode images together.
    pub(crate) vision: Option<VisionSlices>,
    /// All of it, where each encodes images by itself.
    pub(crate) whole_vision: Option<VisionSlices>,
}

/// Slices of the vision encoder and the adapter.
#[derive(Clone, Debug)]
pub(crate) struct VisionSlices {
    pub(crate) patch_conv: TensorSlice,
    pub(crate) ln_pre: TensorSlice,
    pub(crate) layers: Vec<LayerSlices>,
    pub(crate) adapter_in: TensorSlice,
    pub(crate) adapter_out: TensorSlice,
    /// Of the first and the second adapter layer.
    pub(crate) adapter_bias: Option<[TensorSlice; 2]>,
    pub(crate) adapter_segments: Vec<usize>,
}

/// Slices of one transformer layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerSlices {
    pub(crate) attention_norm: TensorSlice,
    pub(crate) qkv: [TensorSlice; 3],
    pub(crate) attention_out: TensorSlice,
    pub(crate) ffn_norm: TensorSlice,
    pub(crate) gate_up: [TensorSlice; 2],
    pub(crate) down: TensorSlice,
    /// Bounds of the fixed segments of `attention_out`'s and `down`'s inner dimensions.
    pub(crate) attention_segments: Vec<usize>,
    pub(crate) ffn_segments: Vec<usize>,
}

/// A transformer layer's sizes and a rank's part of them.
struct LayerShape {
    dim: usize,
    head_dim: usize,
    all_heads: usize,
    heads: Range<usize>,
    all_kv_heads: usize,
    kv_heads: Range<usize>,
    all_ffn: usize,
    ffn: Range<usize>,
    quantisable: bool,
}

impl ShardSlices {
    pub(crate) fn new(spec: &ModelSpec, plan: &ShardPlan) -> Self {
        let d = &spec.decoder;
        let shape = LayerShape {
            dim: d.dim,
            head_dim: d.head_dim,
            all_heads: d.heads,
            heads: plan.heads.clone(),
            all_kv_heads: d.kv_heads,
            kv_heads: plan.kv_heads.clone(),
            all_ffn: d.ffn_dim,
            ffn: plan.ffn.clone(),
            quantisable: true,
        };
        // A rank behind the vocabulary's end still holds one row, so that no matrix is ever empty.
        let last = d.vocab_size - 1;
        let vocab = plan.vocab.start.min(last)..plan.vocab.end.max(plan.vocab.start.min(last) + 1);
        let embedding = TensorSlice::matrix("tok_embeddings.weight", &[d.vocab_size, d.dim]).rows(vocab.clone());
        let output = if d.tied_embeddings {
            embedding.clone()
        } else {
            TensorSlice::matrix("output.weight", &[d.vocab_size, d.dim]).rows(vocab)
        };
        let vision = spec.vision.as_ref().zip(plan.vision.as_ref());
        let sliced = vision.filter(|_| plan.vision_parallel != VisionParallel::Image);
        let whole = spec.vision.as_ref().filter(|_| plan.vision_parallel != VisionParallel::Tensor);
        Self {
            embedding,
            layers: (0..d.layers).map(|n| layer(&format!("layers.{n}."), &shape)).collect(),
            norm: TensorSlice::vector("norm.weight", d.dim),
            output,
            vision: sliced.map(|(vision, shard)| VisionSlices::new(vision, shard, d.dim)),
            whole_vision: whole.map(|vision| VisionSlices::new(vision, &VisionShard::whole(vision, d.dim), d.dim)),
        }
    }

    /// Every slice, in the order of loading.
    pub(crate) fn all(&self) -> impl Iterator<Item = &TensorSlice> {
        let decoder = [&self.embedding, &self.norm, &self.output].into_iter();
        let layers = self.layers.iter().flat_map(LayerSlices::all);
        let vision = self.vision.iter().chain(&self.whole_vision).flat_map(VisionSlices::all);
        decoder.chain(layers).chain(vision)
    }
}

impl VisionSlices {
    fn new(vision: &VisionSpec, shard: &VisionShard, dim: usize) -> Self {
        let shape = LayerShape {
            dim: vision.dim,
            head_dim: vision.head_dim(),
            all_heads: vision.heads,
            heads: shard.heads.clone(),
            all_kv_heads: vision.heads,
            kv_heads: shard.heads.clone(),
            all_ffn: vision.ffn_dim,
            ffn: shard.ffn.clone(),
            quantisable: false,
        };
        let patch = vision.patch_size;
        let adapter = |name: &str| format!("vision_language_adapter.{name}");
        let bias = || {
            let first = TensorSlice::vector(adapter("w_in.bias"), dim).columns(shard.adapter.clone());
            [first, TensorSlice::vector(adapter("w_out.bias"), dim)]
        };
        Self {
            patch_conv: TensorSlice::matrix("vision_encoder.patch_conv.weight", &[vision.dim, vision.channels, patch, patch]),
            ln_pre: TensorSlice::vector("vision_encoder.ln_pre.weight", vision.dim),
            layers: (0..vision.layers).map(|n| layer(&format!("vision_encoder.transformer.layers.{n}."), &shape)).collect(),
            adapter_in: TensorSlice::matrix(adapter("w_in.weight"), &[dim, vision.dim]).rows(shard.adapter.clone()),
            adapter_out: TensorSlice::matrix(adapter("w_out.weight"), &[dim, dim]).columns(shard.adapter.clone()),
            adapter_bias: vision.adapter_bias.then(bias),
            adapter_segments: segment_bounds(dim, &shard.adapter),
        }
    }

    fn all(&self) -> impl Iterator<Item = &TensorSlice> {
        let own = [&self.patch_conv, &self.ln_pre, &self.adapter_in, &self.adapter_out].into_iter();
        own.chain(self.adapter_bias.iter().flatten()).chain(self.layers.iter().flat_map(LayerSlices::all))
    }
}

impl LayerSlices {
    fn all(&self) -> impl Iterator<Item = &TensorSlice> {
        let single = [&self.attention_norm, &self.attention_out, &self.ffn_norm, &self.down].into_iter();
        single.chain(&self.qkv).chain(&self.gate_up)
    }
}

fn layer(prefix: &str, shape: &LayerShape) -> LayerSlices {
    let matrix = |name: &str, out: usize, inner: usize| {
        TensorSlice::matrix(format!("{prefix}{name}.weight"), &[out, inner]).quantisable(shape.quantisable)
    };
    let norm = |name: &str| TensorSlice::vector(format!("{prefix}{name}.weight"), shape.dim);
    let rows = |heads: &Range<usize>| heads.start * shape.head_dim..heads.end * shape.head_dim;
    let (queries, keys) = (shape.all_heads * shape.head_dim, shape.all_kv_heads * shape.head_dim);
    let attended = rows(&shape.heads);
    LayerSlices {
        attention_norm: norm("attention_norm"),
        qkv: [
            matrix("attention.wq", queries, shape.dim).rows(rows(&shape.heads)).rotary(shape.head_dim),
            matrix("attention.wk", keys, shape.dim).rows(rows(&shape.kv_heads)).rotary(shape.head_dim),
            matrix("attention.wv", keys, shape.dim).rows(rows(&shape.kv_heads)),
        ],
        attention_out: matrix("attention.wo", shape.dim, queries).columns(attended.clone()),
        ffn_norm: norm("ffn_norm"),
        gate_up: ["feed_forward.w1", "feed_forward.w3"]
            .map(|name| matrix(name, shape.all_ffn, shape.dim).rows(shape.ffn.clone())),
        down: matrix("feed_forward.w2", shape.dim, shape.all_ffn).columns(shape.ffn.clone()),
        attention_segments: segment_bounds(queries, &attended),
        ffn_segments: segment_bounds(shape.all_ffn, &shape.ffn),
    }
}

/// Bytes of the weights that a rank holds, to know its memory before anything is loaded.
pub fn shard_bytes(spec: &ModelSpec, plan: &ShardPlan, format: WeightFormat) -> usize {
    ShardSlices::new(spec, plan).all().map(|slice| slice.kept_bytes(format)).sum()
}

#[cfg(test)]
mod tests {
    use tessera_device::{Dtype, Quantization};
    use tessera_types::Rank;

    use super::*;

    fn shard_parameters(spec: &ModelSpec, plan: &ShardPlan) -> usize {
        shard_bytes(spec, plan, Dtype::Bf16.into()) / 2
    }

    #[test]
    fn one_rank_holds_every_parameter_of_pixtral_12b_in_585_tensors() {
        let spec = ModelSpec::pixtral_12b();
        let plan = ShardPlan::new(&spec, 1, Rank(0)).unwrap();
        assert_eq!(shard_parameters(&spec, &plan), 12_682_739_712);
        assert_eq!(ShardSlices::new(&spec, &plan).all().count(), 585);
    }

    #[test]
    fn ranks_share_out_all_but_the_replicated_weights() {
        let spec = ModelSpec::pixtral_12b();
        // Norms, the patch convolution and the second adapter bias stand on every rank.
        let replicated = (2 * 40 + 1) * 5120 + (2 * 24 + 1) * 1024 + 1024 * 3 * 16 * 16 + 5120;
        for tp in [2, 4, 8] {
            for rank in 0..tp {
                let plan = ShardPlan::new(&spec, tp, Rank(rank as u16)).unwrap();
                assert_eq!(shard_parameters(&spec, &plan), (12_682_739_712 - replicated) / tp + replicated);
            }
        }
    }

    #[test]
    fn a_rank_that_encodes_images_by_itself_holds_the_whole_encoder() {
        let spec = ModelSpec::pixtral_12b();
        let plan = ShardPlan::new(&spec, 4, Rank(3)).unwrap();
        let held = |parallel| shard_bytes(&spec, &plan.clone().sharing_images(parallel), Dtype::Bf16.into()) / 2;
        let whole = 403_489_792 + 31_467_520;
        // A quarter, but for norms, the patch convolution and the second adapter bias, which stand on every rank.
        let replicated = (2 * 24 + 1) * 1024 + 1024 * 3 * 16 * 16 + 5120;
        let slice = (whole - replicated) / 4 + replicated;
        assert_eq!(held(VisionParallel::Auto) - held(VisionParallel::Tensor), whole);
        assert_eq!(held(VisionParallel::Auto) - held(VisionParallel::Image), slice);
        let alone = ShardPlan::new(&spec, 1, Rank(0)).unwrap().sharing_images(VisionParallel::Auto);
        assert_eq!(shard_bytes(&spec, &alone, Dtype::Bf16.into()) / 2, 12_682_739_712, "to one rank it is all one");
    }

    #[test]
    fn fp8_takes_a_byte_off_each_weight_of_the_decoders_layers_and_adds_a_scale_for_each_output() {
        let spec = ModelSpec::pixtral_12b();
        let fp8 = WeightFormat { dtype: Dtype::Bf16, quantization: Some(Quantization::Fp8) };
        for tp in [1, 2, 4, 8] {
            let plan = ShardPlan::new(&spec, tp, Rank(0)).unwrap();
            let saved = shard_bytes(&spec, &plan, Dtype::Bf16.into()) - shard_bytes(&spec, &plan, fp8);
            // Queries, keys, values, gate and up are cut by outputs; every rank has all 5120 outputs of the two others.
            let outputs = (4096 + 2 * 1024 + 2 * 14_336) / tp + 2 * 5120;
            let weights = 5120 * (2 * 4096 + 2 * 1024 + 3 * 14_336) / tp;
            assert_eq!(saved, 40 * (weights - 4 * outputs), "tp {tp}");
        }
    }

    #[test]
    fn rows_that_are_no_multiple_of_16_stay_as_they_are() {
        let mut spec = ModelSpec::bench_1b();
        spec.decoder.ffn_dim += 8;
        let fp8 = WeightFormat { dtype: Dtype::Bf16, quantization: Some(Quantization::Fp8) };
        let slices = ShardSlices::new(&spec, &ShardPlan::new(&spec, 1, Rank(0)).unwrap());
        let layer = &slices.layers[0];
        assert_eq!(layer.down.kept_bytes(fp8), 2 * layer.down.len());
        assert_eq!(layer.gate_up[0].kept_bytes(fp8), layer.gate_up[0].len() + 4 * spec.decoder.ffn_dim);
    }

    #[test]
    fn a_rank_behind_the_vocabularys_end_holds_one_row() {
        let mut spec = ModelSpec::bench_1b();
        spec.decoder.vocab_size = 9;
        let plan = ShardPlan::new(&spec, 8, Rank(7)).unwrap();
        assert!(plan.vocab.is_empty());
        assert_eq!(ShardSlices::new(&spec, &plan).output.rows, 8..9);
    }
}
