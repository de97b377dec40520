//! A client that checks every event of its sequences against the reference.

use std::collections::HashMap;

use tessera_engine::{Admission, Event, FinishReason, NewRequest, RequestNumber};
use tessera_types::{PlacedImage, SamplingParams, SequenceId, TokenId};

use super::reference::generate;

#[derive(Default)]
pub(crate) struct Client {
    pub streams: HashMap<SequenceId, Stream>,
    pub requests_done: HashMap<RequestNumber, usize>,
}

pub(crate) struct Stream {
    prompt: Vec<TokenId>,
    images: Vec<PlacedImage>,
    sampling: SamplingParams,
    /// Tokens so far, those that a resumed request brought included.
    pub(crate) tokens: Vec<TokenId>,
    resumed: usize,
    described: usize,
    pub(crate) end: Option<FinishReason>,
}

impl Client {
    pub(crate) fn follow(&mut self, request: &NewRequest, admission: &Admission) {
        for (&id, sequence) in admission.sequences.iter().zip(&request.sequences) {
            let stream = Stream {
                prompt: request.prompt.to_vec(),
                images: request.images.clone(),
                sampling: sequence.sampling.clone(),
                tokens: sequence.generated.clone(),
                resumed: sequence.generated.len(),
                described: 1,
                end: None,
            };
            assert!(self.streams.insert(id, stream).is_none(), "sequence ids must be new");
        }
    }

    pub(crate) fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Token { sequence, position, token, .. } => {
                    let stream = self.open(sequence);
                    assert_eq!(position, stream.tokens.len(), "a token lost, repeated or out of order");
                    stream.tokens.push(token);
                }
                Event::PromptLogprobs(entry) => {
                    let stream = self.open(entry.sequence);
                    assert_eq!(entry.start as usize, stream.described);
                    let tokens: Vec<_> = entry.tokens.iter().map(|entry| entry.token).collect();
                    assert_eq!(tokens, stream.prompt[stream.described..][..tokens.len()]);
                    stream.described += tokens.len();
                }
                Event::Finished { sequence, reason } => {
                    let stream = self.open(sequence);
                    stream.end = Some(reason);
                    stream.check(reason);
                }
                Event::RequestFinished { request, .. } => *self.requests_done.entry(request).or_default() += 1,
            }
        }
    }

    fn open(&mut self, sequence: SequenceId) -> &mut Stream {
        let stream = self.streams.get_mut(&sequence).expect("an event of an unknown sequence");
        assert!(stream.end.is_none(), "an event behind the end");
        stream
    }
}

impl Stream {
    fn check(&self, reason: FinishReason) {
        let expected = generate(&self.prompt, &self.images, &self.sampling, self.tokens.len());
        assert_eq!(self.tokens, expected, "other tokens than an undisturbed run has");
        let stops = |token: &TokenId| self.sampling.stop_tokens.contains(token);
        let last_stops = self.tokens.last().is_some_and(stops);
        match reason {
            FinishReason::Stop(token) => assert!(last_stops && self.tokens.last() == Some(&token)),
            FinishReason::Length => assert!(!last_stops && !self.tokens.is_empty()),
            _ => assert!(!last_stops, "a sequence that had stopped was ended otherwise"),
        }
        if self.sampling.logprobs.prompt.is_some() && self.tokens.len() > self.resumed {
            assert_eq!(self.described, self.prompt.len(), "a token came before the prompt was described whole");
        }
    }

    /// Tokens of a run to the end in a context of so many.
    pub(crate) fn whole(&self, context: usize) -> Vec<TokenId> {
        let limit = (self.sampling.max_new_tokens as usize).min(context - self.prompt.len());
        generate(&self.prompt, &self.images, &self.sampling, limit)
    }
}
