//! A session's events as JSON of either endpoint, in chunks or in one piece.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tessera_types::{TokenId, TokenLogprob};

use super::{
    bodies::{Choice, Content, Envelope, Logprobs, Spoken, UsageBody, finish},
    logprobs,
    sampling::Delivery,
};
use crate::{
    event::{Delta, Event, FinishReason, Finished, Usage},
    session::Session,
    vocabulary::Vocabulary,
};

/// Which of OpenAI's endpoints is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// What an answer's chunks, or its one body, have in common.
pub(crate) struct Writer {
    api: Api,
    id: String,
    model: String,
    created: u64,
    delivery: Delivery,
    vocabulary: Arc<Vocabulary>,
    prompt_tokens: u32,
    prompt_ids: Option<Vec<TokenId>>,
    with_tokens: bool,
    with_logprobs: bool,
    choices: Vec<Progress>,
}

/// What was said of a choice so far.
#[derive(Clone, Default)]
struct Progress {
    begun: bool,
    /// Characters of the tokens so far.
    offset: usize,
    /// The rest is kept only for an answer in one piece.
    text: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
}

impl Writer {
    /// For a session that was accepted.
    pub(crate) fn new(api: Api, call_id: &str, model: &str, delivery: Delivery, session: &Session) -> Self {
        let prepared = session.prepared();
        let prefix = if api == Api::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            api,
            id: format!("{prefix}-{call_id}"),
            model: model.to_owned(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            delivery,
            vocabulary: prepared.vocabulary.clone(),
            prompt_tokens: prepared.tokens.len() as u32,
            prompt_ids: prepared.return_token_ids.then(|| prepared.tokens.to_vec()),
            with_tokens: prepared.return_token_ids,
            with_logprobs: prepared.wants_logprobs(),
            choices: vec![Progress::default(); prepared.sequence_count()],
        }
    }

    /// Appends an event's chunks to `out`, each as an event of a stream.
    pub(crate) fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Delta(delta) => self.write_delta(delta, out),
            Event::Finished(finished) => self.write_finished(finished, out),
            Event::Usage(usage) if self.delivery.include_usage => {
                self.write_chunk(&[] as &[Choice<'_, Content<'_>, Logprobs>], Some(Some(usage.into())), None, out);
            }
            Event::Usage(_) => {}
        }
    }

    fn write_delta(&mut self, delta: &Delta, out: &mut Vec<u8>) {
        let usage = self.running_usage(delta.generated_tokens);
        let prompt_ids = self.prompt_ids.take();
        let logprobs = self.logprobs(delta.index, &delta.logprobs);
        let begins = self.choices.get_mut(delta.index as usize).is_some_and(|choice| !std::mem::replace(&mut choice.begun, true));
        let role = (begins && self.api == Api::Chat).then_some("assistant");
        let choice = Choice {
            index: delta.index,
            content: match self.api {
                Api::Chat => Content::Delta(Spoken { role, content: Some(&delta.text) }),
                Api::Text => Content::Text(&delta.text),
            },
            logprobs,
            finish_reason: None,
            stop_reason: None,
            token_ids: self.with_tokens.then_some(&delta.tokens[..]),
        };
        self.write_chunk(&[choice], usage, prompt_ids.as_deref(), out);
        if let Some(choice) = self.choices.get_mut(delta.index as usize) {
            choice.tokens.clear();
        }
    }

    fn write_finished(&mut self, finished: &Finished, out: &mut Vec<u8>) {
        let (reason, stop_reason) = finish(&finished.reason);
        let choice = Choice {
            index: finished.index,
            content: match self.api {
                Api::Chat => Content::Delta(Spoken::default()),
                Api::Text => Content::Text(""),
            },
            logprobs: None,
            finish_reason: Some(reason),
            stop_reason,
            token_ids: self.with_tokens.then_some(&[]),
        };
        self.write_chunk(&[choice], self.running_usage(0), None, out);
    }

    fn write_chunk<C: Serialize>(&self, choices: &[C], usage: Option<Option<UsageBody>>, ids: Option<&[TokenId]>, out: &mut Vec<u8>) {
        let object = if self.api == Api::Chat { "chat.completion.chunk" } else { "text_completion" };
        let chunk = self.envelope(object, choices, usage, ids);
        super::sse::write_data(&chunk, out);
    }

    fn envelope<'a, C>(
        &'a self,
        object: &'static str,
        choices: &'a [C],
        usage: Option<Option<UsageBody>>,
        prompt_token_ids: Option<&'a [TokenId]>,
    ) -> Envelope<'a, C> {
        Envelope { id: &self.id, object, created: self.created, model: &self.model, choices, prompt_token_ids, usage }
    }
}
