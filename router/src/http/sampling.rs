//! The sampling fields that both OpenAI endpoints share, peers' extensions included.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::fields::{Fields, is_set};
use crate::{RequestError, request::RawSampling};

/// How an answer is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// As events, token by token.
    pub(crate) stream: bool,
    /// Usage in a chunk of its own at the end.
    pub(crate) include_usage: bool,
    /// Usage in every chunk.
    pub(crate) continuous_usage: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Everything about sampling but the log-probabilities, which the endpoints spell differently.
pub(crate) fn sampling(fields: &mut Fields) -> Result<RawSampling, RequestError> {
    for name in ["structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "use_beam_search"] {
        fields.unsupported(name, is_set)?;
    }
    fields.unsupported("response_format", |format| format.get("type").is_none_or(|kind| kind != "text"))?;
    let stop = fields.take::<OneOrMany>("stop").map_err(|_| fields.invalid("stop", "must be a string or a list of strings"))?;
    let max_tokens: Option<u32> = fields.take("max_tokens")?;
    let max_completion_tokens: Option<u32> = fields.take("max_completion_tokens")?;
    Ok(RawSampling {
        temperature: fields.take("temperature")?,
        top_p: fields.take("top_p")?,
        top_k: top_k(fields)?,
        min_p: fields.take("min_p")?,
        presence_penalty: fields.take("presence_penalty")?,
        frequency_penalty: fields.take("frequency_penalty")?,
        repetition_penalty: fields.take("repetition_penalty")?,
        seed: seed(fields)?,
        n: fields.take("n")?,
        logit_bias: logit_bias(fields)?,
        max_new_tokens: max_completion_tokens.or(max_tokens),
        min_new_tokens: fields.take("min_tokens")?,
        stop: match stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop],
            Some(OneOrMany::Many(stops)) => stops,
        },
        stop_token_ids: fields.take("stop_token_ids")?.unwrap_or_default(),
        include_stop: fields.take("include_stop_str_in_output")?,
        ignore_eos: fields.take("ignore_eos")?,
        logprobs: None,
        prompt_logprobs: None,
    })
}

/// `stream` and its options.
pub(crate) fn delivery(fields: &mut Fields) -> Result<Delivery, RequestError> {
    let stream = fields.take("stream")?.unwrap_or(false);
    let Some(options) = fields.raw("stream_options") else {
        return Ok(Delivery { stream, ..Delivery::default() });
    };
    if !stream {
        return Err(fields.invalid("stream_options", "is for streams only: set `stream`"));
    }
    let mut options = Fields::inside(fields.name("stream_options"), options)?;
    let include_usage = options.take("include_usage")?.unwrap_or(false);
    let continuous_usage = include_usage && options.take("continuous_usage_stats")?.unwrap_or(false);
    Ok(Delivery { stream, include_usage, continuous_usage })
}

/// Peers take -1 for "off" as well as 0.
fn top_k(fields: &mut Fields) -> Result<Option<u32>, RequestError> {
    let top_k: Option<i64> = fields.take("top_k")?;
    let in_range = |top_k| match top_k {
        -1 => Ok(0),
        _ => u32::try_from(top_k).map_err(|_| fields.invalid("top_k", format!("must be at least -1, got {top_k}"))),
    };
    top_k.map(in_range).transpose()
}

/// OpenAI's seeds are signed; the bits are what counts.
fn seed(fields: &mut Fields) -> Result<Option<u64>, RequestError> {
    match fields.raw("seed") {
        None => Ok(None),
        Some(value) => {
            let seed = value.as_u64().or_else(|| value.as_i64().map(|seed| seed as u64));
            seed.map(Some).ok_or_else(|| fields.invalid("seed", "must be an integer of 64 bits"))
        }
    }
}

fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, RequestError> {
    let bias: HashMap<String, f32> = fields.take("logit_bias")?.unwrap_or_default();
    let entry = |(token, bias): (String, f32)| match token.parse() {
        Ok(token) => Ok((token, bias)),
        Err(_) => Err(fields.invalid("logit_bias", format!("`{token}` is not a token id"))),
    };
    let mut bias = bias.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    // In an order of their own, so that the same request is the same bytes.
    bias.sort_by_key(|(token, _)| *token);
    Ok(bias)
}

/// Refuses what a value of `type: object` or a list would switch on.
pub(crate) fn refuse(fields: &mut Fields, names: &[&str]) -> Result<(), RequestError> {
    names.iter().try_for_each(|name| fields.unsupported(name, |value: &Value| is_set(value)))
}
