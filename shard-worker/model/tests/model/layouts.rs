//! Odd shapes read from files of either layout compute what they compute from made-up weights.

use std::fs;

use safetensors::serialize_to_file;
use safetensors::tensor::{Dtype as StoredDtype, TensorView};
use tempfile::TempDir;
use tessera_device::Dtype;
use tessera_model::WeightSource;
use tessera_model::checkpoint::TensorSlice;
use tessera_types::{DecoderSpec, Grid, ModelSpec, PlacedImage, VisionSpec};

use crate::shapes::{picture, prompt, run};

/// A tensor: Mistral's name, Hugging Face's, its shape, and the width of its heads where pairs are turned.
type Tensor = (String, String, Vec<usize>, Option<usize>);

fn layer(mistral: &str, theirs: [&str; 5], heads: [usize; 3], dim: usize, ffn: usize) -> Vec<Tensor> {
    let [queries, keys, head_dim] = heads;
    let [parent, attention, mlp, before, after] = theirs;
    let tensor = |name: &str, their: String, shape: Vec<usize>, turned: bool| {
        (format!("{mistral}{name}.weight"), format!("{parent}{their}.weight"), shape, turned.then_some(head_dim))
    };
    vec![
        tensor("attention.wq", format!("{attention}.q_proj"), vec![queries * head_dim, dim], true),
        tensor("attention.wk", format!("{attention}.k_proj"), vec![keys * head_dim, dim], true),
        tensor("attention.wv", format!("{attention}.v_proj"), vec![keys * head_dim, dim], false),
        tensor("attention.wo", format!("{attention}.o_proj"), vec![dim, queries * head_dim], false),
        tensor("feed_forward.w1", format!("{mlp}.gate_proj"), vec![ffn, dim], false),
        tensor("feed_forward.w2", format!("{mlp}.down_proj"), vec![dim, ffn], false),
        tensor("feed_forward.w3", format!("{mlp}.up_proj"), vec![ffn, dim], false),
        tensor("attention_norm", before.into(), vec![dim], false),
        tensor("ffn_norm", after.into(), vec![dim], false),
    ]
}

fn tensors(spec: &ModelSpec) -> Vec<Tensor> {
    let d = &spec.decoder;
    let plain = |mistral: &str, their: &str, shape: &[usize]| (mistral.into(), their.into(), shape.to_vec(), None);
    let mut all = vec![
        plain("tok_embeddings.weight", "language_model.model.embed_tokens.weight", &[d.vocab_size, d.dim]),
        plain("norm.weight", "language_model.model.norm.weight", &[d.dim]),
    ];
    if !d.tied_embeddings {
        all.push(plain("output.weight", "language_model.lm_head.weight", &[d.vocab_size, d.dim]));
    }
    for n in 0..d.layers {
        let parent = format!("language_model.model.layers.{n}.");
        let theirs = [parent.as_str(), "self_attn", "mlp", "input_layernorm", "post_attention_layernorm"];
        all.extend(layer(&format!("layers.{n}."), theirs, [d.heads, d.kv_heads, d.head_dim], d.dim, d.ffn_dim));
    }
    let Some(v) = &spec.vision else { return all };
    let patch = [v.dim, 3, v.patch_size, v.patch_size];
    all.push(plain("vision_encoder.patch_conv.weight", "vision_tower.patch_conv.weight", &patch));
    all.push(plain("vision_encoder.ln_pre.weight", "vision_tower.ln_pre.weight", &[v.dim]));
    for (mistral, their, inner) in [("w_in", "linear_1", v.dim), ("w_out", "linear_2", d.dim)] {
        let names =
            |kind: &str| (format!("vision_language_adapter.{mistral}.{kind}"), format!("multi_modal_projector.{their}.{kind}"));
        let ((weight, their_weight), (bias, their_bias)) = (names("weight"), names("bias"));
        all.push((weight, their_weight, vec![d.dim, inner], None));
        all.push((bias, their_bias, vec![d.dim], None));
    }
    for n in 0..v.layers {
        let parent = format!("vision_tower.transformer.layers.{n}.");
        let theirs = [parent.as_str(), "attention", "feed_forward", "attention_norm", "ffn_norm"];
        let mistral = format!("vision_encoder.transformer.layers.{n}.");
        all.extend(layer(&mistral, theirs, [v.heads, v.heads, v.dim / v.heads], v.dim, v.ffn_dim));
    }
    all
}

/// Rows of turned heads as Hugging Face stores them: the first numbers of a head's pairs, then the second ones.
fn permuted(bytes: &[u8], row: usize, head_dim: usize) -> Vec<u8> {
    let rows: Vec<&[u8]> = bytes.chunks(row).collect();
    let heads = rows.chunks(head_dim);
    heads.flat_map(|head| head.iter().step_by(2).chain(head.iter().skip(1).step_by(2))).flat_map(|row| row.to_vec()).collect()
}

fn params(spec: &ModelSpec) -> String {
    let d = &spec.decoder;
    let vision = spec.vision.as_ref().map(|v| {
        serde_json::json!({"hidden_size": v.dim, "num_hidden_layers": v.layers, "num_attention_heads": v.heads,
            "intermediate_size": v.ffn_dim, "patch_size": v.patch_size, "image_size": v.image_size, "rope_theta": v.rope_theta})
    });
    serde_json::json!({"dim": d.dim, "n_layers": d.layers, "n_heads": d.heads, "n_kv_heads": d.kv_heads, "head_dim": d.head_dim,
        "hidden_dim": d.ffn_dim, "vocab_size": d.vocab_size, "rope_theta": d.rope_theta, "tied_embeddings": d.tied_embeddings,
        "max_position_embeddings": spec.max_context, "vision_encoder": vision})
    .to_string()
}

fn config(spec: &ModelSpec) -> String {
    let d = &spec.decoder;
    let vision = spec.vision.as_ref().map(|v| {
        serde_json::json!({"model_type": "pixtral", "hidden_size": v.dim, "num_hidden_layers": v.layers,
            "num_attention_heads": v.heads, "intermediate_size": v.ffn_dim, "patch_size": v.patch_size, "image_size": v.image_size,
            "rope_parameters": {"rope_type": "default", "rope_theta": v.rope_theta}})
    });
    let text = serde_json::json!({"model_type": "mistral", "hidden_size": d.dim, "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads, "num_key_value_heads": d.kv_heads, "head_dim": d.head_dim, "intermediate_size": d.ffn_dim,
        "vocab_size": d.vocab_size, "rope_parameters": {"rope_type": "default", "rope_theta": d.rope_theta},
        "max_position_embeddings": spec.max_context});
    serde_json::json!({"model_type": "llava", "tie_word_embeddings": d.tied_embeddings, "text_config": text, "vision_config": vision})
        .to_string()
}

/// The made-up weights in a file of a layout.
fn written(source: &WeightSource, hugging_face: bool) -> TempDir {
    let (spec, folder) = (source.spec(), tempfile::tempdir().unwrap());
    let stored = tensors(spec).into_iter().map(|(mistral, theirs, shape, turned)| {
        let slice = match shape.len() {
            1 => TensorSlice::vector(&mistral, shape[0]),
            _ => TensorSlice::matrix(&mistral, &shape),
        };
        let (bytes, row) = (source.read(&slice).unwrap().bytes, 2 * slice.stride());
        match turned.filter(|_| hugging_face) {
            Some(head_dim) => (theirs, shape, permuted(&bytes, row, head_dim)),
            None => (if hugging_face { theirs } else { mistral }, shape, bytes),
        }
    });
    let stored: Vec<_> = stored.collect();
    let views = stored.iter().map(|(name, shape, data)| (name, TensorView::new(StoredDtype::BF16, shape.clone(), data).unwrap()));
    let (file, about, text) = match hugging_face {
        true => ("model.safetensors", "config.json", config(spec)),
        false => ("consolidated.safetensors", "params.json", params(spec)),
    };
    serialize_to_file(views, None, &folder.path().join(file)).unwrap();
    fs::write(folder.path().join(about), text).unwrap();
    folder
}

fn odd(heads: usize, kv_heads: usize, head_dim: usize, tied_embeddings: bool, vision: Option<VisionSpec>) -> ModelSpec {
    let (dim, ffn_dim, vocab_size, rope_theta) = (76, 100, 147, 5e5);
    let decoder = DecoderSpec {
        dim,
        layers: 2,
        heads,
        kv_heads,
        head_dim,
        ffn_dim,
        vocab_size,
        rope_theta,
        norm_eps: 1e-5,
        tied_embeddings,
    };
    ModelSpec { decoder, vision, max_context: 512 }
}

#[test]
fn odd_shapes_compute_the_same_from_either_layout() {
    let small = VisionSpec {
        dim: 96,
        layers: 2,
        heads: 4,
        ffn_dim: 40,
        patch_size: 7,
        image_size: 35,
        channels: 3,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        adapter_bias: true,
    };
    let grid = Grid { rows: 3, cols: 5 };
    for spec in [odd(28, 4, 80, true, None), odd(6, 2, 72, false, Some(small.clone())), odd(4, 4, 10, true, Some(small))] {
        let source = WeightSource::dummy(spec.clone(), 5);
        let images: Vec<_> = spec.vision.iter().map(|vision| picture(vision, grid)).collect();
        let placed: Vec<_> = images.iter().map(|image| PlacedImage { key: image.key, at: 5, grid }).collect();
        let ids = prompt(&spec, grid);
        let logits = |source: &WeightSource| run(source, 2, Dtype::F32, &ids, &placed, &images);
        let expected = logits(&source);
        for hugging_face in [false, true] {
            let folder = written(&source, hugging_face);
            let opened = WeightSource::open(folder.path()).unwrap();
            assert_eq!(opened.spec(), &spec);
            assert!(logits(&opened) == expected, "hugging face: {hugging_face}, heads of {}", spec.decoder.head_dim);
        }
    }
}
