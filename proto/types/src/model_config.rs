//! Reading a model's shape from either layout's configuration.
//!
//! A value the file states is honoured; one it leaves out is Pixtral-12B's, since published configurations leave
//! out much and transformers' own defaults are another model's.

use serde_json::{Map, Value};

use crate::{DecoderSpec, ModelSpec, VisionSpec};

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
        expected: &'static str,
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
    pub fn from_mistral_params(text: &str) -> Result<Self, ModelConfigError> {
        let root = object(text)?;
        let table = ModelSpec::pixtral_12b();
        let params = Section { path: "", values: &root };
        let d = table.decoder;
        let decoder = DecoderSpec {
            dim: params.size("dim", d.dim)?,
            layers: params.size("n_layers", d.layers)?,
            heads: params.size("n_heads", d.heads)?,
            kv_heads: params.size("n_kv_heads", d.kv_heads)?,
            head_dim: params.size("head_dim", d.head_dim)?,
            ffn_dim: params.size("hidden_dim", d.ffn_dim)?,
            vocab_size: params.size("vocab_size", d.vocab_size)?,
            rope_theta: params.number("rope_theta", d.rope_theta)?,
            norm_eps: params.number("norm_eps", d.norm_eps.into())? as f32,
            tied_embeddings: params.flag("tied_embeddings", d.tied_embeddings)?,
        };
        let vision = match params.section("vision_encoder")? {
            None => None,
            Some(section) => {
                let v = table.vision.unwrap_or_else(|| unreachable!("the table has a vision encoder"));
                Some(VisionSpec {
                    dim: section.size("hidden_size", v.dim)?,
                    layers: section.size("num_hidden_layers", v.layers)?,
                    heads: section.size("num_attention_heads", v.heads)?,
                    ffn_dim: section.size("intermediate_size", v.ffn_dim)?,
                    patch_size: section.size("patch_size", v.patch_size)?,
                    image_size: section.size("image_size", v.image_size)?,
                    channels: section.size("num_channels", v.channels)?,
                    rope_theta: section.number("rope_theta", v.rope_theta)?,
                    norm_eps: section.number("norm_eps", v.norm_eps.into())? as f32,
                    adapter_bias: section.flag("adapter_bias", v.adapter_bias)?,
                })
            }
        };
        let max_context = params.size("max_position_embeddings", params.size("max_seq_len", table.max_context)?)?;
        Self { decoder, vision, max_context }.checked()
    }

    /// Reads Hugging Face's `config.json`: Llava with a Pixtral vision tower, or text-only Mistral.
    pub fn from_hugging_face_config(text: &str) -> Result<Self, ModelConfigError> {
        let root = object(text)?;
        let table = ModelSpec::pixtral_12b();
        let top = Section { path: "", values: &root };
        let text_config = top.section("text_config")?.unwrap_or(Section { path: "", values: &root });
        let vision_config = top.section("vision_config")?;
        text_config.must_be("hidden_act", "silu", "the decoder's gate is SiLU")?;
        let d = table.decoder;
        let (dim, heads) = (text_config.size("hidden_size", d.dim)?, text_config.size("num_attention_heads", d.heads)?);
        let decoder = DecoderSpec {
            dim,
            layers: text_config.size("num_hidden_layers", d.layers)?,
            heads,
            kv_heads: text_config.size("num_key_value_heads", d.kv_heads)?,
            head_dim: text_config.size("head_dim", d.head_dim)?,
            ffn_dim: text_config.size("intermediate_size", d.ffn_dim)?,
            vocab_size: text_config.size("vocab_size", d.vocab_size)?,
            rope_theta: text_config.rope_theta(d.rope_theta)?,
            norm_eps: text_config.number("rms_norm_eps", d.norm_eps.into())? as f32,
            tied_embeddings: top.flag("tie_word_embeddings", text_config.flag("tie_word_embeddings", d.tied_embeddings)?)?,
        };
        let max_context = text_config.size("max_position_embeddings", table.max_context)?;
        if let Some(window) = text_config.values.get("sliding_window").and_then(Value::as_u64)
            && (window as usize) < max_context
        {
            return Err(text_config.unsupported("sliding_window", window, "attention reaches over the whole context"));
        }
        let vision = match vision_config {
            None => None,
            Some(section) => {
                let v = table.vision.unwrap_or_else(|| unreachable!("the table has a vision encoder"));
                section.must_be("hidden_act", "silu", "the vision encoder's gate is SiLU")?;
                top.must_be("projector_hidden_act", "gelu", "the adapter's activation is exact GELU")?;
                Some(VisionSpec {
                    dim: section.size("hidden_size", v.dim)?,
                    layers: section.size("num_hidden_layers", v.layers)?,
                    heads: section.size("num_attention_heads", v.heads)?,
                    ffn_dim: section.size("intermediate_size", v.ffn_dim)?,
                    patch_size: section.size("patch_size", v.patch_size)?,
                    image_size: section.size("image_size", v.image_size)?,
                    channels: section.size("num_channels", v.channels)?,
                    rope_theta: section.rope_theta(v.rope_theta)?,
                    norm_eps: section.number("rms_norm_eps", v.norm_eps.into())? as f32,
                    adapter_bias: top.flag("multimodal_projector_bias", v.adapter_bias)?,
                })
            }
        };
        Self { decoder, vision, max_context }.checked()
    }

    fn checked(self) -> Result<Self, ModelConfigError> {
        let d = &self.decoder;
        let wrong = |field: &str, expected, got: usize| {
            Err(ModelConfigError::Value { field: field.into(), expected, got: got.to_string() })
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
        }
        Ok(self)
    }
}

fn object(text: &str) -> Result<Map<String, Value>, ModelConfigError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ModelConfigError::Json("another kind of value".into())),
        Err(error) => Err(ModelConfigError::Json(error.to_string())),
    }
}

/// An object inside the configuration, with its path for errors.
struct Section<'a> {
    path: &'static str,
    values: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&self, key: &str, expected: &'static str, got: &Value) -> ModelConfigError {
        ModelConfigError::Value { field: self.field(key), expected, got: got.to_string() }
    }

    fn unsupported(&self, key: &str, got: impl ToString, why: &'static str) -> ModelConfigError {
        ModelConfigError::Unsupported { field: self.field(key), got: got.to_string(), why }
    }

    fn section(&self, key: &'static str) -> Result<Option<Section<'a>>, ModelConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Section { path: key, values })),
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    fn size(&self, key: &str, default: usize) -> Result<usize, ModelConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_u64().filter(|&n| (1..=1 << 24).contains(&n)) {
            Some(n) => Ok(n as usize),
            None => Err(self.wrong(key, "a whole number from 1 to 16777216", value)),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ModelConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|n| *n > 0.0).ok_or_else(|| self.wrong(key, "a positive number", value))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ModelConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value))
    }

    /// Newer transformers writes the base inside `rope_parameters`.
    fn rope_theta(&self, default: f64) -> Result<f64, ModelConfigError> {
        match self.section("rope_parameters")? {
            Some(rope) if !self.values.contains_key("rope_theta") => rope.number("rope_theta", default),
            _ => self.number("rope_theta", default),
        }
    }

    fn must_be(&self, key: &str, expected: &str, why: &'static str) -> Result<(), ModelConfigError> {
        match self.get(key) {
            Some(value) if value.as_str() != Some(expected) => Err(self.unsupported(key, value, why)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_leaves_out_is_pixtrals() {
        assert_eq!(ModelSpec::from_mistral_params(r#"{"vision_encoder": {}}"#), Ok(ModelSpec::pixtral_12b()));
        assert_eq!(ModelSpec::from_hugging_face_config(r#"{"vision_config": {}}"#), Ok(ModelSpec::pixtral_12b()));
    }

    #[test]
    fn a_configuration_without_a_vision_part_is_text_only() {
        assert_eq!(ModelSpec::from_mistral_params("{}").unwrap().vision, None);
        let nemo = r#"{"model_type": "mistral", "hidden_size": 5120, "max_position_embeddings": 128000}"#;
        let nemo = ModelSpec::from_hugging_face_config(nemo).unwrap();
        assert_eq!((nemo.vision, nemo.max_context), (None, 128_000));
    }

    #[test]
    fn the_value_at_fault_is_named() {
        let error = ModelSpec::from_hugging_face_config(r#"{"text_config": {"num_hidden_layers": -4}}"#).unwrap_err();
        assert!(error.to_string().starts_with("text_config.num_hidden_layers must be a whole number"), "{error}");
        let error = ModelSpec::from_hugging_face_config(r#"{"vision_config": {"hidden_act": "gelu"}}"#).unwrap_err();
        assert!(error.to_string().starts_with("vision_config.hidden_act = \"gelu\" is not supported"), "{error}");
        assert!(matches!(ModelSpec::from_mistral_params("[1"), Err(ModelConfigError::Json(_))));
    }
}
