//! What a worker that holds weights is known by.

use tessera_types::Fnv1a;

use crate::internal::{GetInfoResponse, LoadRequest, model_source::Source};

impl LoadRequest {
    /// Names the weights that this request loads: model, formats of weights and cache, degree, rank, and how images are shared.
    /// Coordinators rather claim a worker that holds what they need for a rank.
    pub fn fingerprint(&self) -> String {
        let model = match self.model.as_ref().and_then(|model| model.source.as_ref()) {
            Some(Source::Folder(folder)) => folder.clone(),
            Some(Source::Dummy(dummy)) => format!("dummy {:016x} seed {}", Fnv1a::of(dummy.model_spec.as_bytes()), dummy.seed),
            None => String::new(),
        };
        let format = number_format(&self.dtype, &self.quantization, &self.kv_cache_dtype);
        format!("{model} {format} tp {} rank {} vision {}", self.tp, self.rank, self.vision_parallel)
    }
}

impl GetInfoResponse {
    /// Names what the replica keeps weights and cache in: `bf16`, `bf16+fp8`, `bf16+fp8, kv fp8`.
    pub fn number_format(&self) -> String {
        number_format(&self.dtype, &self.quantization, &self.kv_cache_dtype)
    }
}

/// What weights are kept in, and keys and values where they are not in the same dtype: with other ones the same weights answer
/// otherwise.
pub fn number_format(dtype: &str, quantization: &str, kv_cache_dtype: &str) -> String {
    let weights = if quantization.is_empty() { dtype.to_owned() } else { format!("{dtype}+{quantization}") };
    if kv_cache_dtype.is_empty() { weights } else { format!("{weights}, kv {kv_cache_dtype}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internal::{DummyModel, ModelSource};

    #[test]
    fn other_weights_have_other_names() {
        let dummy = |spec: &str| Source::Dummy(DummyModel { model_spec: spec.into(), seed: 1 });
        let request = |source, tp, rank| LoadRequest {
            model: Some(ModelSource { source: Some(source) }),
            dtype: "bf16".into(),
            tp,
            rank,
            ..Default::default()
        };
        let names = [
            request(Source::Folder("/models/a".into()), 2, 0),
            request(Source::Folder("/models/a".into()), 2, 1),
            request(Source::Folder("/models/A".into()), 2, 1),
            request(Source::Folder("/models/a".into()), 4, 1),
            request(dummy("{1}"), 2, 1),
            request(dummy("{2}"), 2, 1),
            LoadRequest { vision_parallel: "image".into(), ..request(dummy("{2}"), 2, 1) },
            LoadRequest { quantization: "fp8".into(), ..request(dummy("{2}"), 2, 1) },
            LoadRequest { kv_cache_dtype: "fp8".into(), ..request(dummy("{2}"), 2, 1) },
            LoadRequest { quantization: "fp8".into(), kv_cache_dtype: "fp8".into(), ..request(dummy("{2}"), 2, 1) },
        ];
        let distinct: std::collections::HashSet<_> = names.iter().map(LoadRequest::fingerprint).collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn a_name_stays_what_it_was() {
        let source = Source::Dummy(DummyModel { model_spec: "{1}".into(), seed: 1 });
        let request = LoadRequest {
            model: Some(ModelSource { source: Some(source) }),
            dtype: "bf16".into(),
            tp: 2,
            rank: 1,
            vision_parallel: "auto".into(),
            ..Default::default()
        };
        assert_eq!(request.fingerprint(), "dummy c669d619832f5d24 seed 1 bf16 tp 2 rank 1 vision auto");
    }
}
