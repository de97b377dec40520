//! Reading a model's shape from either layout's configuration.
//!
//! A value the file states is honoured; one it leaves out is Pixtral-12B's, since published configurations leave
//! out much and transformers' own defaults are another model's. What would change the forward pass and is not known
//! to it is refused by name; what changes nothing is ignored.

mod section;
mod unsupported;

use std::ops::RangeInclusive;

use section::{Section, object};

use crate::{DecoderSpec, ModelSpec, VisionSpec};

/// The most layers, heads, and numbers in a head: several times any published model's.
const COUNT: usize = 1024;
/// The widest residual stream and feed-forward layer.
const WIDTH: usize = 1 << 20;
/// The most tokens, in the vocabulary or in a context.
const TOKENS: usize = 1 << 24;
/// The longest side of an image, in pixels.
const SIDE: usize = 16_384;
/// Bases of rotary frequencies.
const THETA: RangeInclusive<f64> = 1.0..=1e30;
/// What keeps a norm from dividing by zero; a normal number as f32.
const EPS: RangeInclusive<f64> = 1e-30..=1.0;

/// What a layout calls values that the other calls something else.
struct Names {
    dim: &'static str,
    layers: &'static str,
    heads: &'static str,
    kv_heads: &'static str,
    ffn_dim: &'static str,
    norm_eps: &'static str,
}

const MISTRAL: Names = Names {
    dim: "dim",
    layers: "n_layers",
    heads: "n_heads",
    kv_heads: "n_kv_heads",
    ffn_dim: "hidden_dim",
    norm_eps: "norm_eps",
};
const HUGGING_FACE: Names = Names {
    dim: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    ffn_dim: "intermediate_size",
    norm_eps: "rms_norm_eps",
};

/// A configuration that does not describe a model Tessera can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelConfigError {
    /// Not JSON, or not an object.
    #[error("not a JSON object: {0}")]
    Json(String),
    /// A value of the wrong type, or out of range.
    #[error("{field} must be {expected}, got {got}")]
    Value {
        /// Path of the value.
        field: String,
        /// What is allowed.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A variation of the architecture that the forward pass does not know.
    #[error("{field} = {got} is not supported: {why}")]
    Unsupported {
        /// Path of the value.
        field: String,
        /// What stands there.
        got: String,
        /// What is.
        why: &'static str,
    },
}

impl ModelSpec {
    /// Reads Mistral's `params.json`.
    ///
    /// # Errors
    /// Names the value that is out of range or that asks for another architecture.
    pub fn from_mistral_params(text: &str) -> Result<Self, ModelConfigError> {
        let root = object(text)?;
        let table = ModelSpec::pixtral_12b();
        let params = Section::root(&root);
        unsupported::in_mistral_params(&params)?;
        let theta = params.number("rope_theta", table.decoder.rope_theta, THETA)?;
        let tied = params.flag("tied_embeddings", table.decoder.tied_embeddings)?;
        let decoder = decoder(&params, &MISTRAL, &table.decoder, theta, tied)?;
        let vision = match (params.section("vision_encoder")?, table.vision) {
            (Some(section), Some(v)) => {
                unsupported::in_mistral_vision(&section)?;
                let theta = section.number("rope_theta", v.rope_theta, THETA)?;
                let bias = section.flag("adapter_bias", v.adapter_bias)?;
                Some(vision(&section, &MISTRAL, &v, theta, bias)?)
            }
            _ => None,
        };
        let max_context = params.size("max_seq_len", table.max_context, TOKENS)?;
        let max_context = params.size("max_position_embeddings", max_context, TOKENS)?;
        unsupported::window(&params, max_context)?;
        Self { decoder, vision, max_context }.checked()
    }

    /// Reads Hugging Face's `config.json`: Llava with a Pixtral vision tower, or text-only Mistral.
    ///
    /// # Errors
    /// Names the value that is out of range or that asks for another architecture.
    pub fn from_hugging_face_config(text: &str) -> Result<Self, ModelConfigError> {
        let root = object(text)?;
        let table = ModelSpec::pixtral_12b();
        let top = Section::root(&root);
        let text = top.section("text_config")?.unwrap_or(Section::root(&root));
        unsupported::in_hugging_face_text(&text)?;
        let theta = rope_theta(&text, table.decoder.rope_theta)?;
        let tied = top.flag("tie_word_embeddings", false)? || text.flag("tie_word_embeddings", false)?;
        let decoder = decoder(&text, &HUGGING_FACE, &table.decoder, theta, tied)?;
        let max_context = text.size("max_position_embeddings", table.max_context, TOKENS)?;
        unsupported::window(&text, max_context)?;
        let vision = match (top.section("vision_config")?, table.vision) {
            (Some(section), Some(v)) => {
                let theta = rope_theta(&section, v.rope_theta)?;
                let bias = top.flag("multimodal_projector_bias", v.adapter_bias)?;
                let vision = vision(&section, &HUGGING_FACE, &v, theta, bias)?;
                unsupported::in_hugging_face_vision(&top, &section, &vision)?;
                Some(vision)
            }
            _ => None,
        };
        Self { decoder, vision, max_context }.checked()
    }

    fn checked(self) -> Result<Self, ModelConfigError> {
        let d = &self.decoder;
        let wrong = |field: &str, expected: &str, got: usize| {
            Err(ModelConfigError::Value { field: field.into(), expected: expected.into(), got: got.to_string() })
        };
        if !d.heads.is_multiple_of(d.kv_heads) {
            return wrong("key and value heads", "a divisor of the query heads", d.kv_heads);
        }
        if !d.head_dim.is_multiple_of(2) {
            return wrong("head_dim", "even", d.head_dim);
        }
        if let Some(v) = &self.vision {
            if !v.dim.is_multiple_of(v.heads) {
                return wrong("the vision encoder's heads", "a divisor of its width", v.heads);
            }
            if !v.head_dim().is_multiple_of(4) {
                return wrong("the vision encoder's head width", "a multiple of 4", v.head_dim());
            }
            if v.channels != 3 {
                return wrong("num_channels", "3", v.channels);
            }
            if v.patch_size > v.image_size {
                return wrong("patch_size", "at most image_size", v.patch_size);
            }
        }
        Ok(self)
    }
}

fn decoder(
    section: &Section<'_>,
    names: &Names,
    table: &DecoderSpec,
    rope_theta: f64,
    tied_embeddings: bool,
) -> Result<DecoderSpec, ModelConfigError> {
    Ok(DecoderSpec {
        dim: section.size(names.dim, table.dim, WIDTH)?,
        layers: section.size(names.layers, table.layers, COUNT)?,
        heads: section.size(names.heads, table.heads, COUNT)?,
        kv_heads: section.size(names.kv_heads, table.kv_heads, COUNT)?,
        head_dim: section.size("head_dim", table.head_dim, COUNT)?,
        ffn_dim: section.size(names.ffn_dim, table.ffn_dim, WIDTH)?,
        vocab_size: section.size("vocab_size", table.vocab_size, TOKENS)?,
        rope_theta,
        norm_eps: section.number(names.norm_eps, table.norm_eps.into(), EPS)? as f32,
        tied_embeddings,
    })
}

/// Both layouts name the vision encoder's sizes alike.
fn vision(
    section: &Section<'_>,
    names: &Names,
    table: &VisionSpec,
    rope_theta: f64,
    adapter_bias: bool,
) -> Result<VisionSpec, ModelConfigError> {
    Ok(VisionSpec {
        dim: section.size("hidden_size", table.dim, WIDTH)?,
        layers: section.size("num_hidden_layers", table.layers, COUNT)?,
        heads: section.size("num_attention_heads", table.heads, COUNT)?,
        ffn_dim: section.size("intermediate_size", table.ffn_dim, WIDTH)?,
        patch_size: section.size("patch_size", table.patch_size, COUNT)?,
        image_size: section.size("image_size", table.image_size, SIDE)?,
        channels: section.size("num_channels", table.channels, COUNT)?,
        rope_theta,
        norm_eps: section.number(names.norm_eps, table.norm_eps.into(), EPS)? as f32,
        adapter_bias,
    })
}

/// Newer transformers writes the base inside `rope_parameters`.
fn rope_theta(section: &Section<'_>, default: f64) -> Result<f64, ModelConfigError> {
    unsupported::rope(section)?;
    let outside = section.number("rope_theta", default, THETA)?;
    let Some(rope) = section.section("rope_parameters")? else { return Ok(outside) };
    let inside = rope.number("rope_theta", outside, THETA)?;
    if section.get("rope_theta").is_some() && inside != outside {
        return Err(rope.unsupported("rope_theta", inside, "the rope_theta beside it is another"));
    }
    Ok(inside)
}

#[cfg(test)]
mod tests;
