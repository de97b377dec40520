//! Which of several replicas takes a request.

use tessera_types::BLOCK_TOKENS;

/// How many tokens more than the least busy one a replica may have before it, and still be chosen for what it has in its
/// cache. A load is up to half a second old and counts prompts that are through already, so that smaller differences
/// mean little; and this many tokens are a few steps' work.
const SLACK: u64 = 2048;

/// What is known of a replica that could take a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Blocks of the prompt's beginning that it should have in its cache.
    pub(super) matched: usize,
    /// Tokens before the request.
    pub(super) load: u64,
}

/// The candidate with the longest part of the prompt in its cache, of equals the least busy, unless it is too busy for
/// that; then the less busy of two drawn at random. Drawn, because all routers see the same load for a while, and would
/// all send to the same replica. `draw` gives a number below its argument.
pub(super) fn choose(candidates: &[Candidate], mut draw: impl FnMut(usize) -> usize) -> Option<usize> {
    let least = candidates.iter().map(|candidate| candidate.load).min()?;
    let of_two = less_busy_of_two(candidates, &mut draw);
    let best = candidates.iter().map(|candidate| candidate.matched).max().filter(|&matched| matched > 0);
    let Some(best) = best else { return Some(of_two) };
    // Waiting behind as many tokens as need not be computed costs no time.
    let limit = least + SLACK + (best * BLOCK_TOKENS) as u64;
    let at_best = (0..candidates.len()).filter(|&at| candidates[at].matched == best && candidates[at].load <= limit);
    Some(at_best.min_by_key(|&at| (candidates[at].load, at != of_two)).unwrap_or(of_two))
}

fn less_busy_of_two(candidates: &[Candidate], draw: &mut impl FnMut(usize) -> usize) -> usize {
    let first = draw(candidates.len());
    if candidates.len() < 2 {
        return first;
    }
    let second = (first + 1 + draw(candidates.len() - 1)) % candidates.len();
    if candidates[second].load < candidates[first].load { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates<const N: usize>(of: [(usize, u64); N]) -> [Candidate; N] {
        of.map(|(matched, load)| Candidate { matched, load })
    }

    /// Every choice that some draw leads to.
    fn choices(candidates: &[Candidate]) -> Vec<usize> {
        let draws = (0..candidates.len()).flat_map(|first| (0..candidates.len().max(2) - 1).map(move |second| [first, second]));
        let chosen = draws.map(|draws| {
            let mut draws = draws.into_iter();
            choose(candidates, |below| draws.next().filter(|&drawn| drawn < below).unwrap()).unwrap()
        });
        let mut chosen: Vec<_> = chosen.collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    #[test]
    fn the_longest_match_goes_before_a_lesser_load() {
        assert_eq!(choices(&candidates([(3, 900), (7, 2000), (0, 0)])), [1]);
    }

    #[test]
    fn of_equal_matches_the_less_busy_is_chosen() {
        assert_eq!(choices(&candidates([(7, 2000), (7, 1000), (0, 0)])), [1]);
    }

    #[test]
    fn a_match_counts_up_to_the_slack_and_what_it_saves() {
        let limit = 500 + SLACK + 10 * BLOCK_TOKENS as u64;
        assert_eq!(choices(&candidates([(10, limit), (0, 500)])), [0]);
        assert_eq!(choices(&candidates([(10, limit + 1), (0, 500)])), [1]);
    }

    #[test]
    fn without_a_match_the_busiest_is_never_chosen_and_all_others_can_be() {
        assert_eq!(choices(&candidates([(0, 1), (0, 9), (0, 3)])), [0, 2]);
        assert_eq!(choices(&candidates([(0, 5), (0, 5), (0, 5)])), [0, 1, 2]);
    }

    #[test]
    fn one_is_chosen_whatever_it_has_to_do_and_of_none_none() {
        assert_eq!(choices(&candidates([(0, u64::MAX / 2)])), [0]);
        assert_eq!(choose(&[], |_| 0), None);
    }
}
