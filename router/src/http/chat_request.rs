//! The body of `POST /v1/chat/completions`.

use serde_json::Value;

use super::{
    Call,
    fields::Fields,
    sampling::{Delivery, delivery, refuse, sampling},
};
use crate::{
    RequestError,
    request::{Content, ImageData, ImageSource, Input, Message, Part, Request},
};

/// Reads the body.
pub(crate) fn parse(body: &[u8], call: &Call) -> Result<(Request, Delivery), RequestError> {
    let mut fields = Fields::parse(body)?;
    refuse(&mut fields, &["tools", "functions", "audio", "web_search_options"])?;
    fields.unsupported("tool_choice", |choice| choice != "none" && choice != "auto")?;
    fields.unsupported("modalities", |kinds| kinds.as_array().is_none_or(|kinds| kinds.iter().any(|kind| kind != "text")))?;
    let messages = messages(&mut fields)?;
    let mut sampling = sampling(&mut fields)?;
    let top_logprobs = fields.take("top_logprobs")?;
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    if top_logprobs.is_some_and(|top: u32| top > 0) && !logprobs {
        return Err(fields.invalid("top_logprobs", "needs `logprobs` to be true"));
    }
    sampling.logprobs = logprobs.then(|| top_logprobs.unwrap_or(0));
    let delivery = delivery(&mut fields)?;
    let request = Request {
        model: fields.take("model")?.unwrap_or_default(),
        input: Some(Input::Messages(messages)),
        sampling,
        priority: fields.take("priority")?.unwrap_or(0),
        return_token_ids: fields.take("return_token_ids")?.unwrap_or(false),
        ..call.request()
    };
    Ok((request, delivery))
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, RequestError> {
    let Some(Value::Array(messages)) = fields.raw("messages") else {
        return Err(fields.invalid("messages", "must be a list of messages"));
    };
    messages.into_iter().enumerate().map(|(at, message)| self::message(format!("messages[{at}]"), message)).collect()
}

fn message(path: String, message: Value) -> Result<Message, RequestError> {
    let mut fields = Fields::inside(path, message)?;
    refuse(&mut fields, &["tool_calls", "function_call", "audio"])?;
    let role: String = fields.require("role")?;
    // OpenAI's newer name for the same thing.
    let role = if role == "developer" { "system".to_owned() } else { role };
    let content = match fields.raw("content") {
        Some(Value::String(text)) => Content::Text(text),
        Some(Value::Array(parts)) => {
            let path = |at| fields.name(&format!("content[{at}]"));
            Content::Parts(parts.into_iter().enumerate().map(|(at, part)| self::part(path(at), part)).collect::<Result<_, _>>()?)
        }
        None if role == "assistant" => Content::Text(String::new()),
        Some(_) | None => return Err(fields.invalid("content", "must be a string or a list of parts")),
    };
    Ok(Message { role, content })
}

fn part(path: String, part: Value) -> Result<Part, RequestError> {
    if let Value::String(text) = part {
        return Ok(Part::Text(text));
    }
    let mut fields = Fields::inside(path, part)?;
    let kind: String = fields.require("type")?;
    match kind.as_str() {
        "text" => fields.require("text").map(Part::Text),
        "image_url" => image(&mut fields).map(Part::Image),
        _ => Err(fields.invalid("type", format!("`{kind}` is not supported; `text` and `image_url` are"))),
    }
}

/// OpenAI has `{"url": …}`, Mistral a string; `detail` is a matter of OpenAI's own models.
fn image(fields: &mut Fields) -> Result<ImageSource, RequestError> {
    let url: String = match fields.raw("image_url") {
        Some(Value::String(url)) => url,
        Some(object) => Fields::inside(fields.name("image_url"), object)?.require("url")?,
        None => return Err(fields.invalid("image_url", "is missing")),
    };
    let is_data = url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    let data = if is_data { ImageData::DataUri(url) } else { ImageData::Url(url) };
    Ok(ImageSource { data, mime: String::new() })
}

#[cfg(test)]
mod tests;
