//! What configurations give and what they are refused for.

use super::*;

type Parse = fn(&str) -> Result<ModelSpec, ModelConfigError>;

const MISTRAL: Parse = ModelSpec::from_mistral_params;
const HUGGING_FACE: Parse = ModelSpec::from_hugging_face_config;

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

#[test]
fn a_value_out_of_range_is_refused_before_anything_is_made_of_it() {
    let cases: [(Parse, &str, &str); 8] = [
        (
            MISTRAL,
            r#"{"vision_encoder": {"image_size": 16777216}}"#,
            "vision_encoder.image_size must be a whole number from 1 to",
        ),
        (MISTRAL, r#"{"vision_encoder": {"patch_size": 64, "image_size": 32}}"#, "patch_size must be at most image_size"),
        (MISTRAL, r#"{"n_layers": 16777216}"#, "n_layers must be a whole number from 1 to 1024"),
        (MISTRAL, r#"{"norm_eps": 1e-50}"#, "norm_eps must be a number from"),
        (MISTRAL, r#"{"rope_theta": 1e-300}"#, "rope_theta must be a number from"),
        (HUGGING_FACE, r#"{"head_dim": 65536}"#, "head_dim must be a whole number from 1 to 1024"),
        (HUGGING_FACE, r#"{"rms_norm_eps": 1e60}"#, "rms_norm_eps must be a number from"),
        (HUGGING_FACE, r#"{"rope_parameters": {"rope_theta": 0}}"#, "rope_parameters.rope_theta must be a number from"),
    ];
    for (parse, text, expected) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn another_architecture_is_refused_by_the_value_that_asks_for_it() {
    let mistral = [
        (r#"{"sliding_window": 4096}"#, "sliding_window = 4096"),
        (r#"{"moe": {"num_experts": 8}}"#, "moe = "),
        (r#"{"yarn": {"factor": 4}}"#, "yarn = "),
        (r#"{"vision_encoder": {"image_token_id": 11}}"#, "vision_encoder.image_token_id = 11"),
        (r#"{"vision_encoder": {"spatial_merge_size": 2}}"#, "vision_encoder.spatial_merge_size = 2"),
    ];
    let hugging_face = [
        (r#"{"rope_scaling": {"rope_type": "linear", "factor": 4}}"#, "rope_scaling.rope_type = \"linear\""),
        (r#"{"rope_scaling": {"type": "dynamic", "factor": 4}}"#, "rope_scaling.type = \"dynamic\""),
        (r#"{"rope_scaling": {"factor": 4}}"#, "rope_scaling.factor = 4"),
        (r#"{"text_config": {"rope_parameters": {"rope_type": "yarn"}}}"#, "text_config.rope_parameters.rope_type = \"yarn\""),
        (r#"{"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}"#, "rope_parameters.rope_theta = 1000000"),
        (r#"{"attention_bias": true}"#, "attention_bias = true"),
        (r#"{"model_type": "qwen2"}"#, "model_type = \"qwen2\""),
        (r#"{"layer_types": ["full_attention", "sliding_attention"]}"#, "layer_types = \"sliding_attention\""),
        (r#"{"vision_config": {}, "vision_feature_layer": -2}"#, "vision_feature_layer = -2"),
        (r#"{"vision_config": {}, "vision_feature_select_strategy": "default"}"#, "vision_feature_select_strategy = \"default\""),
        (r#"{"vision_config": {}, "image_token_index": 32000}"#, "image_token_index = 32000"),
        (r#"{"vision_config": {"model_type": "clip_vision_model"}}"#, "vision_config.model_type = \"clip_vision_model\""),
        (r#"{"vision_config": {"head_dim": 32}}"#, "vision_config.head_dim = 32"),
        (
            r#"{"vision_config": {"rope_parameters": {"partial_rotary_factor": 0.5}}}"#,
            "vision_config.rope_parameters.partial_rotary",
        ),
    ];
    let cases = mistral.map(|(text, expected)| (MISTRAL, text, expected)).into_iter();
    for (parse, text, expected) in cases.chain(hugging_face.map(|(text, expected)| (HUGGING_FACE, text, expected))) {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(expected) && error.contains("is not supported"), "{error}");
    }
}

#[test]
fn values_that_ask_for_nothing_and_keys_that_mean_nothing_are_let_be() {
    let mistral = r#"{"moe": null, "sliding_window": null, "yarn": {}, "max_batch_size": 4, "vision_encoder":
        {"image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13, "mm_projector_id": "", "spatial_merge_size": 1,
        "add_pre_mm_projector_layer_norm": false}}"#;
    assert_eq!(MISTRAL(mistral), Ok(ModelSpec::pixtral_12b()));
    let newer = r#"{"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "image_token_index": 10,
        "vision_feature_layer": [-1], "vision_feature_select_strategy": "full", "transformers_version": "5.23.0",
        "text_config": {"model_type": "mistral", "attention_dropout": 0.0, "attention_bias": false, "sliding_window": null,
            "rope_scaling": null, "rope_parameters": {"rope_theta": 1e9, "rope_type": "default"}, "use_cache": true},
        "vision_config": {"model_type": "pixtral", "head_dim": 64, "initializer_range": 0.02,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}, "vision_feature_layer": 3}}"#;
    assert_eq!(HUGGING_FACE(newer), Ok(ModelSpec::pixtral_12b()));
}
