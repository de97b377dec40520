//! What a worker that holds weights is known by.

use tessera_types::Fnv1a;

use crate::internal::{GetInfoResponse, LoadRequest, model_source::Source};

impl LoadRequest {
    /// Names the weights that this request loads: model, format, degree, rank, and how images are shared. Coordinators rather claim a worker that
    /// holds what they need for a rank.
    pub fn fingerprint(&self) -> String {
        let model = match self.model.as_ref().and_then(|model| model.source.as_ref()) {
            Some(Source::Folder(folder)) => folder.clone(),
            Some(Source::Dummy(dummy)) => format!("dummy {:016x} seed {}", Fnv1a::of(dummy.model_spec.as_bytes()), dummy.seed),
            None => String::new(),
        };
        let format = weight_format(&self.dtype, &self.quantization);
        format!("{model} {format} tp {} rank {} vision {}", self.tp, self.rank, self.vision_parallel)
    }
}

impl GetInfoResponse {
    /// Names what the replica's weights are kept in: `bf16`, `bf16+fp8`.
    pub fn weight_format(&self) -> String {
        weight_format(&self.dtype, &self.quantization)
    }
}

/// What weights are kept in, in a word.
pub fn weight_format(dtype: &str, quantization: &str) -> String {
    if quantization.is_empty() { dtype.to_owned() } else { format!("{dtype}+{quantization}") }
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
