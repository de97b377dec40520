//! Variations of the architecture that published configurations can ask for and the forward pass does not have.

use serde_json::Value;

use super::ModelConfigError;
use super::section::Section;
use crate::{VisionSpec, special};

type Checked = Result<(), ModelConfigError>;

const MIXTURE: &str = "every feed-forward layer is dense";
const BIASES: &str = "the decoder's and the encoder's layers have no biases";
const ROTARY: &str = "rotary frequencies are plain powers of the base";
const WHOLE_HEADS: &str = "heads are turned as a whole";
const WINDOW: &str = "attention reaches over the whole context";
const WEIGHTS: &str = "weights are read as F32, BF16 or F16";
const TOKENS: &str = "images stand in a prompt as [IMG] 10, [IMG_BREAK] 12 and [IMG_END] 13";
const NO_MERGING: &str = "each patch is a token";
const LAST_LAYER: &str = "the adapter reads the encoder's last layer";

/// Keys of `params.json` beside the sizes.
pub(super) fn in_mistral_params(params: &Section<'_>) -> Checked {
    params.must_be_off(&["moe", "num_experts"], MIXTURE)?;
    params.must_be_off(&["yarn", "rope_scaling", "llama_4_scaling"], ROTARY)?;
    params.must_be_off(&["q_lora_rank", "kv_lora_rank"], "queries, keys and values come from plain projections")?;
    params.must_be_off(&["use_biases", "attention_bias", "mlp_bias"], BIASES)?;
    params.must_be_off(&["qk_norm"], "queries and keys are not normed")?;
    params.must_be_off(&["_sliding_window"], WINDOW)?;
    params.must_be_off(&["quantization"], WEIGHTS)
}

/// Keys of `params.json`'s `vision_encoder`.
pub(super) fn in_mistral_vision(vision: &Section<'_>) -> Checked {
    image_tokens(vision)?;
    let projector = "the adapter is two layers and nothing else";
    vision.must_be("mm_projector_id", &["", "mlp"], projector)?;
    vision.must_be_off(&["add_pre_mm_projector_layer_norm"], projector)?;
    vision.must_be("spatial_merge_size", &[1], NO_MERGING)
}

/// Keys of a decoder in `config.json`.
pub(super) fn in_hugging_face_text(text: &Section<'_>) -> Checked {
    text.must_be("model_type", &["mistral", "llama", "llava"], "the decoder is Mistral's")?;
    text.must_be("hidden_act", &["silu"], "the decoder's gate is SiLU")?;
    text.must_be_off(&["attention_bias", "mlp_bias"], BIASES)?;
    text.must_be_off(&["num_local_experts", "num_experts"], MIXTURE)?;
    text.must_be_off(&["quantization_config"], WEIGHTS)?;
    text.must_be_off(&["use_qk_norm", "qk_norm"], "queries and keys are not normed")?;
    text.must_be("partial_rotary_factor", &[1.0], WHOLE_HEADS)?;
    if let Some(Value::Array(kinds)) = text.get("layer_types")
        && let Some(kind) = kinds.iter().find(|kind| *kind != "full_attention")
    {
        return Err(text.unsupported("layer_types", kind, WINDOW));
    }
    Ok(())
}

/// Keys of `config.json` beside `vision_config`, and in it.
pub(super) fn in_hugging_face_vision(top: &Section<'_>, section: &Section<'_>, vision: &VisionSpec) -> Checked {
    top.must_be("model_type", &["llava"], "images go through Llava's adapter")?;
    top.must_be("projector_hidden_act", &["gelu"], "the adapter's activation is exact GELU")?;
    top.must_be("vision_feature_select_strategy", &["full"], "all patches are used")?;
    top.must_be("spatial_merge_size", &[1], NO_MERGING)?;
    top.must_be_off(&["quantization_config"], WEIGHTS)?;
    image_tokens(top)?;
    let last = [-1, vision.layers as i64];
    match top.get("vision_feature_layer") {
        Some(Value::Array(layers)) if layers.len() == 1 && last.iter().any(|last| layers[0] == *last) => {}
        _ => top.must_be("vision_feature_layer", &last, LAST_LAYER)?,
    }
    section.must_be("model_type", &["pixtral"], "the vision encoder is Pixtral's")?;
    section.must_be("hidden_act", &["silu"], "the vision encoder's gate is SiLU")?;
    section.must_be("head_dim", &[vision.dim / vision.heads], "heads share the vision encoder's width")?;
    section.must_be("spatial_merge_size", &[1], NO_MERGING)?;
    section.must_be_off(&["attention_bias", "mlp_bias"], BIASES)
}

/// Frequencies that are stretched, or of some numbers of a head alone.
pub(super) fn rope(section: &Section<'_>) -> Checked {
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = section.section(key)? else { continue };
        let kind = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
        rope.must_be(kind, &["default"], ROTARY)?;
        if rope.get(kind).is_none() {
            rope.must_be("factor", &[1.0], ROTARY)?;
        }
        rope.must_be("partial_rotary_factor", &[1.0], WHOLE_HEADS)?;
        // A set of parameters for each kind of layer.
        for kind in ["full_attention", "sliding_attention"] {
            rope.must_be_off(&[kind], ROTARY)?;
        }
    }
    Ok(())
}

/// A window shorter than the context would be seen.
pub(super) fn window(section: &Section<'_>, max_context: usize) -> Checked {
    match section.get("sliding_window") {
        None | Some(Value::Bool(false)) => Ok(()),
        Some(value) if value.as_u64().is_some_and(|window| window >= max_context as u64) => Ok(()),
        Some(value) => Err(section.unsupported("sliding_window", value, WINDOW)),
    }
}

fn image_tokens(section: &Section<'_>) -> Checked {
    section.must_be("image_token_id", &[special::IMAGE.0], TOKENS)?;
    section.must_be("image_token_index", &[special::IMAGE.0], TOKENS)?;
    section.must_be("image_break_token_id", &[special::IMAGE_BREAK.0], TOKENS)?;
    section.must_be("image_end_token_id", &[special::IMAGE_END.0], TOKENS)
}
