//! The shape of a model.

use serde::{Deserialize, Serialize};

/// Everything about a model but its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The language model.
    pub decoder: DecoderSpec,
    /// The vision encoder and the adapter; `None` for a text-only checkpoint.
    pub vision: Option<VisionSpec>,
    /// Positions the checkpoint claims to handle.
    pub max_context: usize,
}

/// The decoder's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub dim: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; `heads * head_dim` need not be `dim`.
    pub head_dim: usize,
    /// Width of the gated feed-forward layer.
    pub ffn_dim: usize,
    /// Rows of the embedding and of the output matrix.
    pub vocab_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Whether the output matrix is the embedding.
    pub tied_embeddings: bool,
}

/// The vision encoder's and the adapter's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VisionSpec {
    /// Width of the residual stream.
    pub dim: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads; each has its own keys and values.
    pub heads: usize,
    /// Width of the gated feed-forward layer.
    pub ffn_dim: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Longest side of an image in pixels; larger ones are scaled down.
    pub image_size: usize,
    /// Colour channels.
    pub channels: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Whether the adapter's two layers have biases.
    pub adapter_bias: bool,
}

impl VisionSpec {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Patches along the longest side an image can have.
    pub fn max_patches_per_side(&self) -> usize {
        self.image_size.div_ceil(self.patch_size)
    }
}

impl ModelSpec {
    /// Mistral's Pixtral-12B-2409.
    pub fn pixtral_12b() -> Self {
        Self {
            decoder: DecoderSpec {
                dim: 5120,
                layers: 40,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                ffn_dim: 14336,
                vocab_size: 131_072,
                rope_theta: 1e9,
                norm_eps: 1e-5,
                tied_embeddings: false,
            },
            vision: Some(VisionSpec {
                dim: 1024,
                layers: 24,
                heads: 16,
                ffn_dim: 4096,
                patch_size: 16,
                image_size: 1024,
                channels: 3,
                rope_theta: 1e4,
                norm_eps: 1e-5,
                adapter_bias: true,
            }),
            max_context: 131_072,
        }
    }

    /// The text-only shape that CPU benchmarks of peers use: about 0.8 billion parameters.
    pub fn bench_1b() -> Self {
        Self {
            decoder: DecoderSpec {
                dim: 2048,
                layers: 16,
                heads: 16,
                kv_heads: 4,
                head_dim: 128,
                ffn_dim: 5632,
                vocab_size: 32_768,
                rope_theta: 1e6,
                norm_eps: 1e-5,
                tied_embeddings: false,
            },
            vision: None,
            max_context: 32_768,
        }
    }

    /// A shape by name: `pixtral-12b` or `bench-1b`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "pixtral-12b" => Some(Self::pixtral_12b()),
            "bench-1b" => Some(Self::bench_1b()),
            _ => None,
        }
    }

    /// Weights of the decoder, embeddings and norms included.
    pub fn decoder_parameters(&self) -> usize {
        let d = &self.decoder;
        let attention = d.dim * d.head_dim * (2 * d.heads + 2 * d.kv_heads);
        let layer = attention + 3 * d.dim * d.ffn_dim + 2 * d.dim;
        let embeddings = if d.tied_embeddings { 1 } else { 2 } * d.vocab_size * d.dim;
        d.layers * layer + embeddings + d.dim
    }

    /// Weights of the vision encoder, without the adapter.
    pub fn vision_parameters(&self) -> usize {
        self.vision.as_ref().map_or(0, |v| {
            let layer = 4 * v.dim * v.dim + 3 * v.dim * v.ffn_dim + 2 * v.dim;
            v.layers * layer + v.dim * v.channels * v.patch_size * v.patch_size + v.dim
        })
    }

    /// Weights of the adapter.
    pub fn adapter_parameters(&self) -> usize {
        let out = self.decoder.dim;
        self.vision.as_ref().map_or(0, |v| out * (v.dim + out) + if v.adapter_bias { 2 * out } else { 0 })
    }

    /// Bytes of keys and values one token needs across all layers, on a rank with `kv_heads`, where a key of a head takes `key`
    /// bytes.
    pub fn kv_bytes_per_token(&self, kv_heads: usize, key: usize) -> usize {
        2 * self.decoder.layers * kv_heads * key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixtral_12b_has_the_published_parameter_counts() {
        let spec = ModelSpec::pixtral_12b();
        assert_eq!(spec.decoder_parameters(), 12_247_782_400);
        assert_eq!(spec.vision_parameters(), 403_489_792);
        assert_eq!(spec.adapter_parameters(), 31_467_520);
    }

    #[test]
    fn a_token_of_pixtral_12b_takes_160_kib_of_cache_in_bf16() {
        assert_eq!(ModelSpec::pixtral_12b().kv_bytes_per_token(8, 2 * 128), 160 * 1024);
    }
}
