//! What every body of one answer has in common.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tessera_prompt::Tokenizer;
use tessera_types::{TokenId, TokenLogprob};

use super::{
    bodies::{Envelope, Logprobs, UsageBody},
    logprobs,
};
use crate::pipeline::Prepared;

/// Which of OpenAI's endpoints is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// One answer: its name, and what the request asked to be told.
pub(crate) struct Answer {
    pub(crate) api: Api,
    id: String,
    model: String,
    created: u64,
    tokenizer: Arc<Tokenizer>,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: u32,
    /// How many choices there are.
    pub(crate) choices: usize,
    /// The prompt, if token ids are to be told.
    pub(crate) prompt_ids: Option<Vec<TokenId>>,
    with_logprobs: bool,
}

impl Answer {
    pub(crate) fn new(api: Api, call_id: &str, model: &str, prepared: &Prepared) -> Self {
        let prefix = if api == Api::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            api,
            id: format!("{prefix}-{call_id}"),
            model: model.to_owned(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            tokenizer: prepared.tokenizer.clone(),
            prompt_tokens: prepared.tokens.len() as u32,
            choices: prepared.resolved.sequences.len(),
            prompt_ids: prepared.return_token_ids.then(|| prepared.tokens.clone()),
            with_logprobs: prepared.wants_logprobs(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(api: Api) -> Self {
        let tokenizer = Arc::new(Tokenizer::bytes());
        let (id, model) = ("answer".into(), "model".into());
        Self { api, id, model, created: 0, tokenizer, prompt_tokens: 1, choices: 1, prompt_ids: None, with_logprobs: false }
    }

    /// A body with `choices` in it.
    pub(crate) fn envelope<'a, C>(
        &'a self,
        object: &'static str,
        choices: &'a [C],
        usage: Option<Option<UsageBody>>,
        prompt_token_ids: Option<&'a [TokenId]>,
    ) -> Envelope<'a, C> {
        Envelope { id: &self.id, object, created: self.created, model: &self.model, choices, prompt_token_ids, usage }
    }

    /// Log-probabilities in the endpoint's form, if they were asked for.
    pub(crate) fn logprobs(&self, tokens: &[TokenLogprob], offset: &mut usize) -> Option<Logprobs> {
        self.with_logprobs.then(|| match self.api {
            Api::Chat => Logprobs::Chat(logprobs::chat(tokens, &self.tokenizer)),
            Api::Text => Logprobs::Text(logprobs::text(tokens, &self.tokenizer, offset)),
        })
    }
}
