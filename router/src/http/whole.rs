//! A session's events as one answer, sent when all of it is there.

use futures::{Stream, StreamExt};
use serde_json::Value;
use tessera_types::{TokenId, TokenLogprob};

use super::{
    answer::{Answer, Api},
    bodies::{Choice, Content, Spoken, finish},
};
use crate::{
    RequestError,
    event::{Event, FinishReason, Usage},
};

/// A choice as it grows.
struct Draft {
    text: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<TokenLogprob>,
    reason: FinishReason,
}

/// Reads the events to their end and makes the body.
pub(crate) async fn collect(
    answer: &Answer,
    events: impl Stream<Item = Result<Event, RequestError>>,
) -> Result<Value, RequestError> {
    let blank = || Draft { text: String::new(), tokens: Vec::new(), logprobs: Vec::new(), reason: FinishReason::Length };
    let mut drafts: Vec<Draft> = (0..answer.choices).map(|_| blank()).collect();
    let mut usage = Usage::default();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event? {
            Event::Delta(delta) => {
                if let Some(draft) = drafts.get_mut(delta.index as usize) {
                    draft.text.push_str(&delta.text);
                    draft.tokens.extend(delta.tokens);
                    draft.logprobs.extend(delta.logprobs);
                }
            }
            Event::Finished(finished) => {
                if let Some(draft) = drafts.get_mut(finished.index as usize) {
                    draft.reason = finished.reason;
                }
            }
            Event::Usage(last) => usage = last,
            Event::Resumed(_) => {}
        }
    }
    body(answer, &drafts, &usage)
}

fn body(answer: &Answer, drafts: &[Draft], usage: &Usage) -> Result<Value, RequestError> {
    let choices: Vec<_> = drafts.iter().enumerate().map(|(index, draft)| choice(answer, index, draft)).collect();
    let object = if answer.api == Api::Chat { "chat.completion" } else { "text_completion" };
    let envelope = answer.envelope(object, &choices, Some(Some(usage.into())), answer.prompt_ids.as_deref());
    serde_json::to_value(envelope).map_err(|error| RequestError::internal(error.to_string()))
}

fn choice<'a>(answer: &Answer, index: usize, draft: &'a Draft) -> Choice<'a, Content<'a>, super::bodies::Logprobs> {
    let (reason, stop_reason) = finish(&draft.reason);
    Choice {
        index: index as u32,
        content: match answer.api {
            Api::Chat => Content::Message(Spoken { role: Some("assistant"), content: Some(&draft.text) }),
            Api::Text => Content::Text(&draft.text),
        },
        logprobs: answer.logprobs(&draft.logprobs, &mut 0),
        finish_reason: Some(reason),
        stop_reason,
        token_ids: answer.prompt_ids.is_some().then_some(&draft.tokens),
    }
}
