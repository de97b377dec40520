//! Sampling parameters with every default filled in and every range checked.

use std::sync::Arc;

use tessera_types::{Logprobs, SamplingParams, TokenId, special};

use crate::{Limits, RequestError, request::RawSampling, stops::StopStrings};

/// How a request's sequences are sampled and ended.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// One a sequence; they differ in seed, and the first alone carries the prompt's log-probabilities.
    pub(crate) sequences: Vec<SamplingParams>,
    /// Stop strings of all of them.
    pub(crate) stops: Arc<StopStrings>,
    /// Whether what ended a sequence is part of its text.
    pub(crate) include_stop: bool,
}

/// Checks `raw` against the server's limits and a vocabulary of `vocab_size`. Nothing is known of the prompt yet.
pub(crate) fn resolve(raw: &RawSampling, limits: &Limits, vocab_size: usize) -> Result<Resolved, RequestError> {
    check_lists(raw, limits)?;
    let sequences = raw.n.unwrap_or(1);
    if !(1..=limits.max_sequences).contains(&sequences) {
        return Err(out_of_range("n", 1, limits.max_sequences, sequences));
    }
    let params = params(raw, limits);
    params.validate(vocab_size)?;
    if params.max_new_tokens > limits.max_new_tokens {
        return Err(out_of_range("max_new_tokens", 1, limits.max_new_tokens, params.max_new_tokens));
    }
    let include_stop = raw.include_stop.unwrap_or(false);
    Ok(Resolved {
        sequences: (0..sequences).map(|index| nth(&params, index)).collect(),
        stops: Arc::new(StopStrings::new(raw.stop.clone(), include_stop)),
        include_stop,
    })
}

impl Resolved {
    /// Clips what is to be generated to the `context` that a prompt of `prompt_tokens` leaves; `field` is the prompt's.
    pub(crate) fn fit(&mut self, field: &str, prompt_tokens: usize, context: usize) -> Result<(), RequestError> {
        let room = context.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(RequestError::prompt_too_long(field, prompt_tokens, context));
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        for params in &mut self.sequences {
            if params.min_new_tokens > room {
                let problem = format!("must be at most the {room} tokens that the prompt leaves, got {}", params.min_new_tokens);
                return Err(RequestError::invalid("sampling.min_new_tokens", problem));
            }
            params.max_new_tokens = params.max_new_tokens.min(room);
        }
        Ok(())
    }
}

fn params(raw: &RawSampling, limits: &Limits) -> SamplingParams {
    let default = SamplingParams::default();
    let end = (!raw.ignore_eos.unwrap_or(false)).then_some(special::END);
    let mut stop_tokens: Vec<_> = end.into_iter().chain(raw.stop_token_ids.iter().copied().map(TokenId)).collect();
    stop_tokens.sort_unstable();
    stop_tokens.dedup();
    SamplingParams {
        temperature: raw.temperature.unwrap_or(default.temperature),
        top_p: raw.top_p.unwrap_or(default.top_p),
        top_k: raw.top_k.unwrap_or(default.top_k),
        min_p: raw.min_p.unwrap_or(default.min_p),
        presence_penalty: raw.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: raw.frequency_penalty.unwrap_or(default.frequency_penalty),
        repetition_penalty: raw.repetition_penalty.unwrap_or(default.repetition_penalty),
        seed: raw.seed.unwrap_or_else(rand::random),
        logit_bias: raw.logit_bias.iter().map(|&(token, bias)| (TokenId(token), bias)).collect(),
        max_new_tokens: raw.max_new_tokens.unwrap_or(limits.max_new_tokens),
        min_new_tokens: raw.min_new_tokens.unwrap_or(0),
        stop_tokens,
        logprobs: Logprobs { generated: raw.logprobs, prompt: raw.prompt_logprobs },
    }
}

fn nth(params: &SamplingParams, index: u32) -> SamplingParams {
    let prompt = params.logprobs.prompt.filter(|_| index == 0);
    let seed = params.seed.wrapping_add(index.into());
    SamplingParams { seed, logprobs: Logprobs { prompt, ..params.logprobs }, ..params.clone() }
}

fn check_lists(raw: &RawSampling, limits: &Limits) -> Result<(), RequestError> {
    at_most("stop", raw.stop.len(), limits.max_stop_strings)?;
    at_most("stop_token_ids", raw.stop_token_ids.len(), limits.max_listed_tokens)?;
    at_most("logit_bias", raw.logit_bias.len(), limits.max_listed_tokens)?;
    for (at, stop) in raw.stop.iter().enumerate() {
        let field = || format!("sampling.stop[{at}]");
        if stop.is_empty() {
            return Err(RequestError::invalid(field(), "must not be empty"));
        }
        if stop.len() > limits.max_stop_bytes {
            let problem = format!("must have at most {} bytes, has {}", limits.max_stop_bytes, stop.len());
            return Err(RequestError::invalid(field(), problem));
        }
    }
    Ok(())
}

fn at_most(field: &str, count: usize, limit: usize) -> Result<(), RequestError> {
    if count <= limit {
        return Ok(());
    }
    Err(RequestError::invalid(format!("sampling.{field}"), format!("must have at most {limit} entries, has {count}")))
}

fn out_of_range(field: &str, low: u32, high: u32, got: u32) -> RequestError {
    RequestError::invalid(format!("sampling.{field}"), format!("must be between {low} and {high}, got {got}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn refused(raw: RawSampling) -> String {
        resolve(&raw, &Limits::default(), 4096).unwrap_err().field.unwrap()
    }

    #[test]
    fn what_is_unset_takes_the_documented_defaults() {
        let resolved = resolve(&RawSampling::default(), &Limits::default(), 4096).unwrap();
        let [params] = &resolved.sequences[..] else { panic!("one sequence") };
        assert_eq!((params.temperature, params.top_p, params.repetition_penalty), (1.0, 1.0, 1.0));
        assert_eq!(params.stop_tokens, [special::END]);
    }

    #[test]
    fn sequence_i_uses_seed_plus_i_and_the_first_alone_describes_the_prompt() {
        let raw = RawSampling { n: Some(3), seed: Some(u64::MAX), prompt_logprobs: Some(2), ..Default::default() };
        let resolved = resolve(&raw, &Limits::default(), 4096).unwrap();
        let seeds: Vec<_> = resolved.sequences.iter().map(|params| (params.seed, params.logprobs.prompt)).collect();
        assert_eq!(seeds, [(u64::MAX, Some(2)), (0, None), (1, None)]);
    }

    #[test]
    fn a_parameter_out_of_range_is_named() {
        let raw = RawSampling::default;
        let nan = f32::NAN;
        assert_eq!(refused(RawSampling { temperature: Some(nan), ..raw() }), "sampling.temperature");
        assert_eq!(refused(RawSampling { top_p: Some(-0.1), ..raw() }), "sampling.top_p");
        assert_eq!(refused(RawSampling { frequency_penalty: Some(f32::INFINITY), ..raw() }), "sampling.frequency_penalty");
        assert_eq!(refused(RawSampling { n: Some(0), ..raw() }), "sampling.n");
        assert_eq!(refused(RawSampling { n: Some(1000), ..raw() }), "sampling.n");
        assert_eq!(refused(RawSampling { max_new_tokens: Some(0), ..raw() }), "sampling.max_new_tokens");
        assert_eq!(refused(RawSampling { max_new_tokens: Some(u32::MAX), ..raw() }), "sampling.max_new_tokens");
        assert_eq!(refused(RawSampling { stop: vec!["a".into(), String::new()], ..raw() }), "sampling.stop[1]");
        assert_eq!(refused(RawSampling { stop: vec!["a".into(); 17], ..raw() }), "sampling.stop");
        assert_eq!(refused(RawSampling { logit_bias: vec![(4096, 1.0)], ..raw() }), "sampling.logit_bias");
        assert_eq!(refused(RawSampling { stop_token_ids: vec![9999], ..raw() }), "sampling.stop_token_ids");
        assert_eq!(refused(RawSampling { logprobs: Some(21), ..raw() }), "sampling.logprobs");
    }

    #[test]
    fn what_is_to_be_generated_is_clipped_to_the_context_left() {
        let raw = RawSampling { max_new_tokens: Some(100), min_new_tokens: Some(5), ..Default::default() };
        let resolved = resolve(&raw, &Limits::default(), 4096).unwrap();
        let fit = |prompt| {
            let mut resolved = resolved.clone();
            resolved.fit("text", prompt, 64).map(|()| resolved.sequences[0].max_new_tokens)
        };
        assert_eq!(fit(60).unwrap_err().field.as_deref(), Some("sampling.min_new_tokens"));
        assert_eq!(fit(50), Ok(14));
        assert_eq!(fit(64).unwrap_err().kind, ErrorKind::PromptTooLong);
    }
}
