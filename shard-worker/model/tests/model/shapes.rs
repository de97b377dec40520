//! Models of all sorts of widths and head counts compute what plain loops compute, at every degree.

use bytes::Bytes;
use proptest::prelude::*;
use tessera_device::Dtype;
use tessera_model::WeightSource;
use tessera_types::{
    DecoderSpec, Grid, ImageEncode, ImageKey, ModelSpec, PlacedImage, Rank, SequenceId, SequenceStart, ShardPlan, TokenId,
    VisionSpec, special,
};

use crate::driver::{Driver, greedy, group_of};
use crate::reference;

prop_compose! {
    fn decoder()(
        layers in 1usize..3,
        kv_heads in prop_oneof![Just(1usize), Just(2), Just(3), Just(8)],
        group in 1usize..9,
        head_dim in prop_oneof![3 => (1usize..20).prop_map(|half| 2 * half), 1 => prop::sample::select(vec![72, 80, 96, 160])],
        dim in 2usize..36,
        ffn in 1usize..30,
        vocab_size in 20usize..150,
        theta in prop_oneof![Just(1e4), Just(5e5), Just(1e9)],
        tied_embeddings: bool,
    ) -> DecoderSpec {
        DecoderSpec {
            dim: 4 * dim,
            layers,
            heads: kv_heads * group,
            kv_heads,
            head_dim,
            ffn_dim: 4 * ffn,
            vocab_size,
            rope_theta: theta,
            norm_eps: 1e-5,
            tied_embeddings,
        }
    }
}

prop_compose! {
    fn vision()(
        layers in 1usize..3,
        heads in prop_oneof![Just(1usize), Just(2), Just(4), Just(8)],
        quarter_head in 1usize..6,
        ffn in 1usize..6,
        patch_size in prop_oneof![Just(2usize), Just(7), Just(14)],
        adapter_bias: bool,
    ) -> VisionSpec {
        VisionSpec {
            dim: heads * 4 * quarter_head,
            layers,
            heads,
            ffn_dim: 8 * ffn,
            patch_size,
            image_size: 5 * patch_size,
            channels: 3,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            adapter_bias,
        }
    }
}

/// A picture of smooth waves.
pub(crate) fn picture(vision: &VisionSpec, grid: Grid) -> ImageEncode {
    let numbers = 3 * vision.patch_size * vision.patch_size * grid.patches();
    let pixels: Bytes = (0..numbers).flat_map(|i| ((i * i % 97) as f32 / 48.0 - 1.0).to_le_bytes()).collect();
    ImageEncode { key: ImageKey([7; 32]), grid, pixels }
}

/// A prompt with the picture in its midst.
pub(crate) fn prompt(spec: &ModelSpec, grid: Grid) -> Vec<TokenId> {
    let text = |i: usize| TokenId((i * i + 3) as u32 % spec.decoder.vocab_size as u32);
    let mut ids: Vec<TokenId> = (0..5).map(text).collect();
    if spec.vision.is_some() {
        ids.extend(
            (0..grid.tokens())
                .map(|offset| if grid.feature_of(offset).is_some() { special::IMAGE } else { special::IMAGE_BREAK }),
        );
    }
    ids.extend((5..12).map(text));
    ids
}

/// Logits of every position at a degree, by rank.
pub(crate) fn run(
    source: &WeightSource,
    tp: usize,
    dtype: Dtype,
    ids: &[TokenId],
    placed: &[PlacedImage],
    images: &[ImageEncode],
) -> Vec<Vec<f32>> {
    group_of(source, tp, dtype, |model| {
        let mut driver = Driver::new();
        driver.plan.encode = images.to_vec();
        let mut sampling = greedy();
        sampling.stop_tokens.clear();
        sampling.logprobs.prompt = Some(0);
        let (tokens, images) = (ids.to_vec(), placed.to_vec());
        driver.start(SequenceStart { sequence: SequenceId(1), tokens, prompt_len: ids.len() as u32, images, sampling });
        let mut logits = Vec::new();
        while driver.left(1) > 0 && logits.len() < ids.len() * model.spec().decoder.vocab_size {
            driver.chunk(1, 9);
            driver.step(model, &mut |_, _, row| logits.extend_from_slice(row));
        }
        logits
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_computes_what_plain_loops_compute(
        decoder in decoder(),
        vision in prop::option::of(vision()),
        rows in 1u32..=5,
        cols in 1u32..=5,
        seed: u64,
    ) {
        let spec = ModelSpec { decoder, vision, max_context: 512 };
        let grid = Grid { rows, cols };
        let images: Vec<_> = spec.vision.iter().map(|vision| picture(vision, grid)).collect();
        let placed: Vec<_> = images.iter().map(|image| PlacedImage { key: image.key, at: 5, grid }).collect();
        let ids = prompt(&spec, grid);
        let source = WeightSource::dummy(spec.clone(), seed);
        let expected = reference::logits(&source, &ids, &placed, &images).concat();
        let alone = run(&source, 1, Dtype::F32, &ids, &placed, &images).remove(0);
        prop_assert_eq!(alone.len(), expected.len());
        for (got, expected) in alone.iter().zip(&expected) {
            prop_assert!((f64::from(*got) - expected).abs() < 2e-4, "{} for {}", got, expected);
        }
        let bits = |logits: &[f32]| logits.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for tp in [2, 4, 8].into_iter().filter(|&tp| ShardPlan::new(&spec, tp, Rank(0)).is_ok()) {
            for rank in run(&source, tp, Dtype::F32, &ids, &placed, &images) {
                prop_assert!(bits(&rank) == bits(&alone), "the bits differ at tp {}", tp);
            }
        }
    }
}
