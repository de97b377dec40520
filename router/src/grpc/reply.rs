//! From a session's events to the wire's.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tessera_prompt::Tokenizer;
use tessera_proto::v1::{self, finished::Matched, generate_response::Event as WireEvent};
use tessera_types::{Grid, TokenId, TokenLogprob};

use crate::{
    RequestError,
    event::{Accepted, Delta, Event, FinishReason, Finished, Usage},
    pipeline::{Count, Prepared},
    router::Router,
};

/// Says what a session says, in the wire's words.
pub(super) struct Teller {
    model: String,
    prompt_ids: Vec<u32>,
    tokenizer: Arc<Tokenizer>,
    sequences: usize,
    tells_resumed: bool,
}

impl Teller {
    pub(super) fn new(prepared: &Prepared, model: &str, tells_resumed: bool) -> Self {
        let told = if prepared.return_token_ids { &prepared.tokens[..] } else { &[] };
        Self {
            model: model.to_owned(),
            prompt_ids: ids(told),
            tokenizer: prepared.tokenizer.clone(),
            sequences: prepared.resolved.sequences.len(),
            tells_resumed,
        }
    }

    pub(super) fn accepted(&self, accepted: Accepted) -> v1::GenerateResponse {
        v1::GenerateResponse { event: Some(WireEvent::Accepted(self.accepted_message(accepted))) }
    }

    /// `None` for what this client did not ask to be told.
    pub(super) fn event(&self, event: Event) -> Option<v1::GenerateResponse> {
        let event = match event {
            Event::Delta(delta) => WireEvent::Delta(self.delta(delta)),
            Event::Finished(end) => WireEvent::Finished(finished(end)),
            Event::Usage(used) => WireEvent::Usage(usage(&used)),
            Event::Resumed(_) if !self.tells_resumed => return None,
            Event::Resumed(generated_tokens) => WireEvent::Resumed(v1::Resumed { generated_tokens }),
        };
        Some(v1::GenerateResponse { event: Some(event) })
    }

    /// Everything in one answer.
    pub(super) async fn once(
        &self,
        accepted: Accepted,
        events: impl Stream<Item = Result<Event, RequestError>>,
    ) -> Result<v1::GenerateOnceResponse, RequestError> {
        let completion = |index| v1::Completion { index, ..Default::default() };
        let mut response = v1::GenerateOnceResponse {
            accepted: Some(self.accepted_message(accepted)),
            completions: (0..self.sequences as u32).map(completion).collect(),
            ..Default::default()
        };
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event? {
                Event::Delta(delta) => {
                    let delta = self.delta(delta);
                    response.prompt_logprobs.extend(delta.prompt_logprobs);
                    if let Some(completion) = response.completions.get_mut(delta.index as usize) {
                        completion.text.push_str(&delta.text);
                        completion.token_ids.extend(delta.token_ids);
                        completion.logprobs.extend(delta.logprobs);
                    }
                }
                Event::Finished(end) => {
                    if let Some(completion) = response.completions.get_mut(end.index as usize) {
                        completion.finished = Some(finished(end));
                    }
                }
                Event::Usage(used) => response.usage = Some(usage(&used)),
                Event::Resumed(_) => {}
            }
        }
        Ok(response)
    }

    fn accepted_message(&self, accepted: Accepted) -> v1::Accepted {
        v1::Accepted {
            request_id: accepted.request_id,
            model: self.model.clone(),
            prompt_tokens: accepted.prompt_tokens,
            image_tokens: accepted.image_tokens,
            queue_position: accepted.queue_position,
            prompt_token_ids: self.prompt_ids.clone(),
        }
    }

    fn delta(&self, delta: Delta) -> v1::Delta {
        v1::Delta {
            index: delta.index,
            seq: delta.seq,
            text: delta.text,
            token_ids: ids(&delta.tokens),
            logprobs: self.logprobs(delta.logprobs),
            prompt_logprobs: self.logprobs(delta.prompt_logprobs),
        }
    }

    fn logprobs(&self, entries: Vec<TokenLogprob>) -> Vec<v1::TokenLogprob> {
        let top = |(token, logprob): (TokenId, f32)| v1::TopLogprob { token_id: token.0, logprob, token: self.bytes(token) };
        let entry = |entry: TokenLogprob| v1::TokenLogprob {
            token_id: entry.token.0,
            logprob: entry.logprob,
            token: self.bytes(entry.token),
            top: entry.top.into_iter().map(top).collect(),
        };
        entries.into_iter().map(entry).collect()
    }

    fn bytes(&self, token: TokenId) -> Bytes {
        Bytes::copy_from_slice(self.tokenizer.token_bytes(token))
    }
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

fn finished(finished: Finished) -> v1::Finished {
    let (reason, matched) = match finished.reason {
        FinishReason::StopString(text) => (v1::FinishReason::Stop, Some(Matched::StopString(text))),
        FinishReason::StopToken(token) => (v1::FinishReason::Stop, Some(Matched::StopTokenId(token.0))),
        FinishReason::Length => (v1::FinishReason::Length, None),
    };
    v1::Finished { index: finished.index, reason: reason.into(), matched, seed: finished.seed }
}

fn usage(usage: &Usage) -> v1::Usage {
    let timings = usage.timings;
    v1::Usage {
        prompt_tokens: usage.prompt_tokens,
        cached_prompt_tokens: usage.cached_prompt_tokens,
        generated_tokens: usage.generated_tokens,
        image_tokens: usage.image_tokens,
        images: usage.images,
        timings: Some(v1::Timings {
            image_fetch_us: timings.image_fetch_us,
            image_decode_us: timings.image_decode_us,
            queue_us: timings.queue_us,
            encode_us: timings.encode_us,
            prefill_us: timings.prefill_us,
            decode_us: timings.decode_us,
            time_to_first_token_us: timings.time_to_first_token_us,
            total_us: timings.total_us,
        }),
    }
}

/// The answer to a dry run: whether `more` tokens fit behind the prompt.
pub(super) fn count(count: &Count, more: u32) -> v1::CountTokensResponse {
    let image = |&(width, height, grid): &(u32, u32, Grid)| v1::ImageCost {
        width,
        height,
        rows: grid.rows,
        cols: grid.cols,
        tokens: grid.tokens() as u32,
    };
    v1::CountTokensResponse {
        prompt_tokens: count.prompt_tokens as u32,
        images: count.images.iter().map(image).collect(),
        max_context: count.max_context as u32,
        fits: count.prompt_tokens + more.max(1) as usize <= count.max_context,
    }
}

/// What is being served.
pub(super) fn model_info(router: &Router) -> v1::GetModelInfoResponse {
    let spec = router.spec();
    let limits = router.limits();
    let vision = spec.vision.as_ref();
    v1::GetModelInfoResponse {
        model: router.model_name().to_owned(),
        vision: vision.is_some(),
        max_context: router.max_context() as u32,
        vocab_size: spec.decoder.vocab_size as u32,
        image_size: vision.map_or(0, |vision| vision.image_size as u32),
        patch_size: vision.map_or(0, |vision| vision.patch_size as u32),
        limits: Some(v1::Limits {
            max_images: if vision.is_some() { limits.max_images as u32 } else { 0 },
            max_image_bytes: limits.max_image_bytes as u64,
            max_image_pixels: limits.max_image_pixels,
            max_new_tokens: limits.max_new_tokens,
            max_sequences: limits.max_sequences,
            image_urls: router.fetches_urls(),
        }),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
