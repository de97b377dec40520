//! Which tokens may be drawn: min-p, then top-k, then top-p, each over what the one before left.

use tessera_types::SamplingParams;

/// Tokens that top-p looks at first. It sorts so many, then twice as many, rather than the whole vocabulary.
const FIRST_LOOK: usize = 256;

/// Ids that may be drawn, in order; `None` for all. `weights` are probabilities relative to the best token's.
pub(super) fn keep(weights: &[f64], params: &SamplingParams) -> Option<Vec<u32>> {
    let top_k = params.top_k as usize;
    if params.min_p == 0.0 && (top_k == 0 || top_k >= weights.len()) && params.top_p >= 1.0 {
        return None;
    }
    let floor = f64::from(params.min_p);
    let mut ids: Vec<u32> = (0..weights.len() as u32).filter(|&id| weights[id as usize] >= floor).collect();
    if top_k > 0 && top_k < ids.len() {
        ids.select_nth_unstable_by(top_k - 1, |a, b| heavier(weights, *a, *b));
        ids.truncate(top_k);
        ids.sort_unstable();
    }
    if params.top_p < 1.0 {
        nucleus(&mut ids, weights, f64::from(params.top_p));
    }
    ids.sort_unstable();
    Some(ids)
}

/// Keeps the heaviest tokens until they reach the share `top_p` of the weight of `ids`; at least one.
fn nucleus(ids: &mut Vec<u32>, weights: &[f64], top_p: f64) {
    let mass = top_p * ids.iter().map(|&id| weights[id as usize]).sum::<f64>();
    let (mut sorted, mut sum) = (0, 0.0);
    while sorted < ids.len() {
        let end = (2 * sorted).max(FIRST_LOOK).min(ids.len());
        if end < ids.len() {
            ids[sorted..].select_nth_unstable_by(end - sorted, |a, b| heavier(weights, *a, *b));
        }
        ids[sorted..end].sort_unstable_by(|a, b| heavier(weights, *a, *b));
        for i in sorted..end {
            sum += weights[ids[i] as usize];
            if sum >= mass {
                ids.truncate(i + 1);
                return;
            }
        }
        sorted = end;
    }
}

/// By weight, the heavier first; by id among equals.
fn heavier(weights: &[f64], a: u32, b: u32) -> std::cmp::Ordering {
    weights[b as usize].total_cmp(&weights[a as usize]).then(a.cmp(&b))
}
