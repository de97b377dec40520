//! The JSON that goes out, as OpenAI's API has it; `token_ids`, `prompt_token_ids` and `stop_reason` are vLLM's extensions.

use serde::Serialize;
use tessera_types::TokenId;

use super::logprobs::{ChatLogprobs, TextLogprobs};
use crate::event::{FinishReason, Usage};

/// An answer, or a chunk of one.
#[derive(Serialize)]
pub(crate) struct Envelope<'a, C> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: &'a [C],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<&'a [TokenId]>,
    /// Left out, or null, or there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<UsageBody>>,
}

/// What was used.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    /// Known at the end alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptDetails>,
}

/// What of the prompt cost less.
#[derive(Clone, Copy, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

/// One of the n choices. `C` is its content: a message, a part of one, or plain text.
#[derive(Serialize)]
pub(crate) struct Choice<'a, C, L> {
    pub(crate) index: u32,
    #[serde(flatten)]
    pub(crate) content: C,
    pub(crate) logprobs: Option<L>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_reason: Option<StopReason<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<&'a [TokenId]>,
}

/// The content of a choice.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Content<'a> {
    /// A whole chat message.
    Message(Spoken<'a>),
    /// More of a chat message.
    Delta(Spoken<'a>),
    /// Plain text, whole or more of it.
    Text(&'a str),
}

/// Who speaks, and what is said.
#[derive(Default, Serialize)]
pub(crate) struct Spoken<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<&'a str>,
}

/// What matched: a stop string, or a stop token that is not the end token.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason<'a> {
    /// A stop string.
    Text(&'a str),
    /// A stop token.
    Token(TokenId),
}

/// Log-probabilities in either endpoint's form.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Logprobs {
    /// Of a chat choice.
    Chat(ChatLogprobs),
    /// Of a completion choice.
    Text(TextLogprobs),
}

impl UsageBody {
    pub(crate) fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details: None }
    }
}

impl From<&Usage> for UsageBody {
    fn from(usage: &Usage) -> Self {
        let prompt_tokens_details = Some(PromptDetails { cached_tokens: usage.cached_prompt_tokens });
        Self { prompt_tokens_details, ..Self::new(usage.prompt_tokens, usage.generated_tokens) }
    }
}

/// OpenAI's `finish_reason`, and what matched.
pub(crate) fn finish(reason: &FinishReason) -> (&'static str, Option<StopReason<'_>>) {
    match reason {
        FinishReason::StopString(text) => ("stop", Some(StopReason::Text(text))),
        FinishReason::StopToken(token) if *token == tessera_types::special::END => ("stop", None),
        FinishReason::StopToken(token) => ("stop", Some(StopReason::Token(*token))),
        FinishReason::Length => ("length", None),
    }
}
