//! Facts about choosing tokens, checked against slow and plain versions.

use proptest::prelude::*;
use tessera_types::{SamplingParams, TokenId};

use super::*;

fn choose(logits: &[f32], params: &SamplingParams, position: u32) -> u32 {
    let choice = Choice { params, counts: None, generated: 0, position };
    Sampler::default().choose(logits, &choice).0
}

/// Tokens that may be drawn, by full sorts and renormalised probabilities at every stage.
fn plain_filter(logits: &[f32], params: &SamplingParams) -> Vec<usize> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut ranked: Vec<(usize, f64)> =
        logits.iter().map(|&l| ((f64::from(l) - max) / f64::from(params.temperature)).exp()).enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.retain(|&(_, weight)| weight >= f64::from(params.min_p));
    if params.top_k > 0 {
        ranked.truncate(params.top_k as usize);
    }
    let total: f64 = ranked.iter().map(|&(_, weight)| weight).sum();
    let mut before = 0.0;
    ranked.retain(|&(_, weight)| {
        let wanted = params.top_p >= 1.0 || before < f64::from(params.top_p) * total;
        before += weight;
        wanted
    });
    ranked.into_iter().map(|(id, _)| id).collect()
}

prop_compose! {
    /// Logits with ties: multiples of a quarter.
    fn row()(quarters in prop::collection::vec(-40i32..40, 2..700)) -> Vec<f32> {
        quarters.into_iter().map(|quarter| quarter as f32 / 4.0).collect()
    }
}

prop_compose! {
    fn params()(
        temperature in 0.1f32..3.0,
        top_k in prop_oneof![Just(0u32), 1..800u32],
        top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        seed: u64,
    ) -> SamplingParams {
        SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::default() }
    }
}

proptest! {
    #[test]
    fn what_is_drawn_passed_every_filter(logits in row(), params in params(), position: u32) {
        let allowed = plain_filter(&logits, &params);
        let chosen = choose(&logits, &params, position) as usize;
        prop_assert!(allowed.contains(&chosen), "{chosen} is not among {allowed:?}");
    }

    #[test]
    fn filters_keep_what_full_sorts_keep(logits in row(), params in params()) {
        let mut sampler = Sampler { logits: logits.clone(), weights: Vec::new() };
        sampler.weigh(argmax(&logits), params.temperature);
        let kept = filter::keep(&sampler.weights, &params).unwrap_or_else(|| (0..logits.len() as u32).collect());
        let mut plain = plain_filter(&logits, &params);
        plain.sort_unstable();
        prop_assert_eq!(kept.iter().map(|&id| id as usize).collect::<Vec<_>>(), plain);
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_the_highest(logits in row(), seed: u64) {
        let params = SamplingParams { temperature: 0.0, seed, ..SamplingParams::default() };
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = logits.iter().position(|&logit| logit == max).unwrap();
        prop_assert_eq!(choose(&logits, &params, 5) as usize, first);
    }

    #[test]
    fn the_same_seed_and_position_choose_the_same_token(logits in row(), other in row(), params in params(), position: u32) {
        let choice = Choice { params: &params, counts: None, generated: 0, position };
        let mut used = Sampler::default();
        used.choose(&other, &choice);
        prop_assert_eq!(used.choose(&logits, &choice), Sampler::default().choose(&logits, &choice));
    }

    #[test]
    fn log_probabilities_are_those_of_a_plain_softmax(logits in row(), count in 0usize..30) {
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let softmax = LogSoftmax::new(&logits);
        let mut ranked: Vec<usize> = (0..logits.len()).collect();
        ranked.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        ranked.truncate(count);
        let top = softmax.top(count);
        prop_assert_eq!(top.iter().map(|(token, _)| token.0 as usize).collect::<Vec<_>>(), ranked);
        for (token, logprob) in top {
            let plain = (f64::from(logits[token.0 as usize]).exp() / total).ln();
            prop_assert!((f64::from(logprob) - plain).abs() < 1e-5);
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
    let params = SamplingParams { seed: 9, ..SamplingParams::default() };
    let mut counts = [0u32; 4];
    (0..20_000).for_each(|position| counts[choose(&logits, &params, position) as usize] += 1);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    for (id, &count) in counts.iter().enumerate() {
        let expected = f64::from(logits[id]).exp() / total;
        assert!((f64::from(count) / 20_000.0 - expected).abs() < 0.01, "{id}: {count}");
    }
}

#[test]
fn penalties_see_prompt_and_output_as_vllm_does() {
    let params =
        SamplingParams { repetition_penalty: 2.0, frequency_penalty: 0.5, presence_penalty: 0.25, ..SamplingParams::default() };
    // Token 0 only in the prompt, 1 twice in the output, 2 in both, 3 nowhere.
    let tokens = [0, 2, 1, 1, 2].map(TokenId);
    let mut logits = [4.0, -1.0, 4.0, 4.0];
    TokenCounts::new(&tokens, 2).penalise(&mut logits, &params);
    assert_eq!(logits, [2.0, -2.0 - 1.0 - 0.25, 2.0 - 0.5 - 0.25, 4.0]);
}

#[test]
fn stop_tokens_wait_for_the_minimum() {
    let params = SamplingParams {
        temperature: 0.0,
        min_new_tokens: 2,
        stop_tokens: vec![TokenId(1)],
        logit_bias: vec![(TokenId(1), 100.0)],
        ..SamplingParams::default()
    };
    let choice = |generated| Choice { params: &params, counts: None, generated, position: 7 };
    let at = |generated| Sampler::default().choose(&[0.5, 9.0, 1.0], &choice(generated));
    assert_eq!([at(0), at(1), at(2)], [2, 2, 1].map(TokenId));
}

#[test]
fn a_bias_moves_the_choice() {
    let params = SamplingParams { temperature: 0.0, logit_bias: vec![(TokenId(0), 5.0)], ..SamplingParams::default() };
    assert_eq!(choose(&[0.0, 4.0], &params, 0), 0);
}

#[test]
fn what_is_no_number_is_told_apart() {
    assert!(is_finite(&[f32::NEG_INFINITY, 0.0]));
    for bad in [[f32::NAN, 0.0], [0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
        assert!(!is_finite(&bad), "{bad:?}");
    }
}
