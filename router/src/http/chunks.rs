//! A session's events as the chunks of a streamed answer.

use serde::Serialize;
use tessera_types::TokenId;

use super::{
    answer::{Answer, Api},
    bodies::{Choice, Content, Logprobs, Spoken, UsageBody, finish},
    sampling::Delivery,
    sse,
};
use crate::event::{Delta, Event, Finished};

type ChunkChoice<'a> = Choice<'a, Content<'a>, Logprobs>;

/// Writes chunks.
pub(crate) struct Chunks {
    answer: Answer,
    delivery: Delivery,
    /// The prompt's ids go with the first chunk.
    prompt_ids: Option<Vec<TokenId>>,
    tells_tokens: bool,
    /// For each choice, whether it has begun, and where in the text its next token stands.
    choices: Vec<(bool, usize)>,
}

impl Chunks {
    pub(crate) fn new(mut answer: Answer, delivery: Delivery) -> Self {
        let prompt_ids = answer.prompt_ids.take();
        Self { choices: vec![(false, 0); answer.choices], tells_tokens: prompt_ids.is_some(), prompt_ids, delivery, answer }
    }

    /// Appends what an event says to `out`.
    pub(crate) fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Delta(delta) => self.delta(delta, out),
            Event::Finished(finished) => self.finished(finished, out),
            Event::Usage(usage) if self.delivery.include_usage => {
                self.chunk::<ChunkChoice<'_>>(&[], Some(Some(usage.into())), out)
            }
            Event::Usage(_) | Event::Resumed(_) => {}
        }
    }

    fn delta(&mut self, delta: &Delta, out: &mut Vec<u8>) {
        let Some((_, offset)) = self.choices.get_mut(delta.index as usize) else { return };
        let logprobs = self.answer.logprobs(&delta.logprobs, offset);
        let choice = Choice {
            index: delta.index,
            content: self.content(delta.index, Some(&delta.text)),
            logprobs,
            finish_reason: None,
            stop_reason: None,
            token_ids: self.tells_tokens.then_some(&delta.tokens),
        };
        let usage = self.running_usage(delta.generated_tokens);
        self.chunk(&[choice], usage, out);
    }

    fn finished(&mut self, finished: &Finished, out: &mut Vec<u8>) {
        let (reason, stop_reason) = finish(&finished.reason);
        let choice = Choice {
            index: finished.index,
            content: self.content(finished.index, None),
            logprobs: None::<Logprobs>,
            finish_reason: Some(reason),
            stop_reason,
            token_ids: self.tells_tokens.then_some(&[][..]),
        };
        let usage = self.running_usage(finished.generated_tokens);
        self.chunk(&[choice], usage, out);
    }

    /// A choice's first chunk says who speaks.
    fn content<'a>(&mut self, index: u32, text: Option<&'a str>) -> Content<'a> {
        if self.answer.api == Api::Text {
            return Content::Text(text.unwrap_or_default());
        }
        let begun = self.choices.get_mut(index as usize).is_some_and(|(begun, _)| std::mem::replace(begun, true));
        Content::Delta(Spoken { role: (!begun).then_some("assistant"), content: text })
    }

    /// Left out, or null until the last chunk, or there, as the client asked.
    fn running_usage(&self, generated: u32) -> Option<Option<UsageBody>> {
        let now = self.delivery.continuous_usage.then(|| UsageBody::new(self.answer.prompt_tokens, generated));
        self.delivery.include_usage.then_some(now)
    }

    fn chunk<C: Serialize>(&mut self, choices: &[C], usage: Option<Option<UsageBody>>, out: &mut Vec<u8>) {
        let object = if self.answer.api == Api::Chat { "chat.completion.chunk" } else { "text_completion" };
        let prompt_ids = self.prompt_ids.take();
        sse::write_data(&self.answer.envelope(object, choices, usage, prompt_ids.as_deref()), out);
    }
}
