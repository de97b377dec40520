//! Log-probabilities as OpenAI's two endpoints spell them.

use serde::Serialize;
use serde_json::{Map, Value};
use tessera_prompt::Tokenizer;
use tessera_types::{TokenId, TokenLogprob};

/// What stands for a probability of zero, since JSON has no infinity.
const IMPOSSIBLE: f32 = -9999.0;

/// Of a chat choice.
#[derive(Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatLogprob>,
}

#[derive(Serialize)]
struct ChatLogprob {
    #[serde(flatten)]
    token: NamedLogprob,
    top_logprobs: Vec<NamedLogprob>,
}

#[derive(Serialize)]
struct NamedLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// Of a completion choice: four lists of one length.
#[derive(Default, Serialize)]
pub(crate) struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    text_offset: Vec<usize>,
}

/// The chat endpoint's form.
pub(crate) fn chat(tokens: &[TokenLogprob], tokenizer: &Tokenizer) -> ChatLogprobs {
    let named = |token, logprob| named(token, logprob, tokenizer);
    let content = tokens.iter().map(|entry| ChatLogprob {
        token: named(entry.token, entry.logprob),
        top_logprobs: entry.top.iter().map(|&(token, logprob)| named(token, logprob)).collect(),
    });
    ChatLogprobs { content: content.collect() }
}

/// The older endpoint's form. `offset` is where in the text, in characters, the first token begins, and then the next.
pub(crate) fn text(tokens: &[TokenLogprob], tokenizer: &Tokenizer, offset: &mut usize) -> TextLogprobs {
    let mut lists = TextLogprobs::default();
    for entry in tokens {
        let token = spelled(entry.token, tokenizer);
        lists.text_offset.push(*offset);
        *offset += token.chars().count();
        lists.tokens.push(token);
        lists.token_logprobs.push(entry.logprob.max(IMPOSSIBLE));
        let top = entry.top.iter().map(|&(token, logprob)| (spelled(token, tokenizer), logprob.max(IMPOSSIBLE).into()));
        lists.top_logprobs.push(top.collect());
    }
    lists
}

fn named(token: TokenId, logprob: f32, tokenizer: &Tokenizer) -> NamedLogprob {
    let logprob = logprob.max(IMPOSSIBLE);
    NamedLogprob { token: spelled(token, tokenizer), logprob, bytes: tokenizer.token_bytes(token).to_vec() }
}

/// A token's text; bytes that are no character on their own are shown as U+FFFD.
fn spelled(token: TokenId, tokenizer: &Tokenizer) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned()
}
