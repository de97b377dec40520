//! Tensor names of the Hugging Face layout.

/// Where a Hugging Face checkpoint puts the parts of the model. Versions of transformers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HuggingFaceNames {
    /// Before the decoder's names.
    decoder: &'static str,
    /// The output matrix.
    output: &'static str,
    /// Before the vision encoder's names.
    vision: &'static str,
    /// Before the adapter's names.
    adapter: &'static str,
}

/// Published Llava checkpoints, newer Llava ones, text-only ones.
const VARIANTS: [HuggingFaceNames; 3] = [
    HuggingFaceNames {
        decoder: "language_model.model.",
        output: "language_model.lm_head.weight",
        vision: "vision_tower.",
        adapter: "multi_modal_projector.",
    },
    HuggingFaceNames {
        decoder: "model.language_model.",
        output: "lm_head.weight",
        vision: "model.vision_tower.",
        adapter: "model.multi_modal_projector.",
    },
    HuggingFaceNames { decoder: "model.", output: "lm_head.weight", vision: "vision_tower.", adapter: "multi_modal_projector." },
];

/// Mistral's name of a module and Hugging Face's, without its parent, which the decoder and the vision encoder name apart.
const ATTENTION: [(&str, &str); 4] =
    [("attention.wq.", "q_proj."), ("attention.wk.", "k_proj."), ("attention.wv.", "v_proj."), ("attention.wo.", "o_proj.")];
const FEED_FORWARD: [(&str, &str); 3] =
    [("feed_forward.w1.", "gate_proj."), ("feed_forward.w2.", "down_proj."), ("feed_forward.w3.", "up_proj.")];

impl HuggingFaceNames {
    /// The variant whose embedding is among the tensors there are; the published one if none is, so that the error
    /// about the missing embedding names what most checkpoints have.
    pub(crate) fn detect(mut has: impl FnMut(&str) -> bool) -> Self {
        let found = VARIANTS.into_iter().find(|variant| has(&format!("{}embed_tokens.weight", variant.decoder)));
        found.unwrap_or(VARIANTS[0])
    }

    /// The name of what Mistral's layout calls `name`.
    pub(crate) fn of(&self, name: &str) -> String {
        match name {
            "tok_embeddings.weight" => return format!("{}embed_tokens.weight", self.decoder),
            "output.weight" => return self.output.to_owned(),
            _ => {}
        }
        if let Some(rest) = name.strip_prefix("vision_encoder.transformer.layers.") {
            return format!("{}transformer.layers.{}", self.vision, layer(rest, "attention.", "feed_forward."));
        }
        if let Some(rest) = name.strip_prefix("vision_encoder.") {
            return format!("{}{rest}", self.vision);
        }
        if let Some(rest) = name.strip_prefix("vision_language_adapter.") {
            return format!("{}{}", self.adapter, rest.replace("w_in", "linear_1").replace("w_out", "linear_2"));
        }
        let rest = layer(name, "self_attn.", "mlp.");
        let rest = rest.replace("attention_norm.", "input_layernorm.").replace("ffn_norm.", "post_attention_layernorm.");
        format!("{}{rest}", self.decoder)
    }
}

/// Renames the modules of a layer; `attention` and `feed_forward` are what their parents are called.
fn layer(name: &str, attention: &str, feed_forward: &str) -> String {
    let attention = ATTENTION.map(|(mistral, theirs)| (mistral, attention, theirs));
    let feed_forward = FEED_FORWARD.map(|(mistral, theirs)| (mistral, feed_forward, theirs));
    for (mistral, parent, theirs) in attention.into_iter().chain(feed_forward) {
        if let Some((before, after)) = name.split_once(mistral) {
            return format!("{before}{parent}{theirs}{after}");
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of names in published checkpoints.
    const PUBLISHED: [(&str, &str); 13] = [
        ("tok_embeddings.weight", "language_model.model.embed_tokens.weight"),
        ("norm.weight", "language_model.model.norm.weight"),
        ("output.weight", "language_model.lm_head.weight"),
        ("layers.7.attention.wk.weight", "language_model.model.layers.7.self_attn.k_proj.weight"),
        ("layers.7.feed_forward.w1.weight", "language_model.model.layers.7.mlp.gate_proj.weight"),
        ("layers.7.feed_forward.w2.weight", "language_model.model.layers.7.mlp.down_proj.weight"),
        ("layers.7.attention_norm.weight", "language_model.model.layers.7.input_layernorm.weight"),
        ("layers.7.ffn_norm.weight", "language_model.model.layers.7.post_attention_layernorm.weight"),
        ("vision_encoder.patch_conv.weight", "vision_tower.patch_conv.weight"),
        ("vision_encoder.transformer.layers.2.attention.wo.weight", "vision_tower.transformer.layers.2.attention.o_proj.weight"),
        (
            "vision_encoder.transformer.layers.2.feed_forward.w3.weight",
            "vision_tower.transformer.layers.2.feed_forward.up_proj.weight",
        ),
        ("vision_encoder.transformer.layers.2.attention_norm.weight", "vision_tower.transformer.layers.2.attention_norm.weight"),
        ("vision_language_adapter.w_out.bias", "multi_modal_projector.linear_2.bias"),
    ];

    #[test]
    fn names_are_those_of_published_checkpoints() {
        let names = HuggingFaceNames::detect(|name| name == "language_model.model.embed_tokens.weight");
        for (mistral, theirs) in PUBLISHED {
            assert_eq!(names.of(mistral), theirs);
        }
    }

    #[test]
    fn newer_and_text_only_checkpoints_are_told_by_their_embedding() {
        let newer = HuggingFaceNames::detect(|name| name == "model.language_model.embed_tokens.weight");
        assert_eq!(newer.of("layers.0.attention.wq.weight"), "model.language_model.layers.0.self_attn.q_proj.weight");
        assert_eq!(newer.of("vision_encoder.ln_pre.weight"), "model.vision_tower.ln_pre.weight");
        assert_eq!(newer.of("vision_language_adapter.w_in.weight"), "model.multi_modal_projector.linear_1.weight");
        let text = HuggingFaceNames::detect(|name| name == "model.embed_tokens.weight");
        assert_eq!(text.of("norm.weight"), "model.norm.weight");
        assert_eq!(text.of("output.weight"), "lm_head.weight");
    }
}
