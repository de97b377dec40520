//! The body of `POST /v1/completions`.

use serde_json::Value;

use super::{
    Call,
    fields::{Fields, is_set},
    sampling::{Delivery, delivery, refuse, sampling},
};
use crate::{
    RequestError,
    request::{Input, Request},
};

/// What OpenAI's older endpoint generates when it is not told.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Reads the body.
pub(crate) fn parse(body: &[u8], call: &Call) -> Result<(Request, Delivery), RequestError> {
    let mut fields = Fields::parse(body)?;
    refuse(&mut fields, &["echo", "suffix"])?;
    let input = prompt(&mut fields)?;
    let mut sampling = sampling(&mut fields)?;
    sampling.max_new_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
    let n = u64::from(sampling.n.unwrap_or(1));
    fields.unsupported("best_of", |best_of| best_of.as_u64().is_none_or(|best_of| best_of > n))?;
    sampling.logprobs = fields.take("logprobs")?;
    let delivery = delivery(&mut fields)?;
    let request = Request {
        model: fields.take("model")?.unwrap_or_default(),
        input: Some(input),
        sampling,
        priority: fields.take("priority")?.unwrap_or(0),
        return_token_ids: fields.take("return_token_ids")?.unwrap_or(false),
        ..call.request()
    };
    Ok((request, delivery))
}

/// A string, token ids, or a list with one of either in it.
fn prompt(fields: &mut Fields) -> Result<Input, RequestError> {
    let wrong = "must be a string, a list of token ids, or a list with one of either in it";
    let mut prompt = fields.raw("prompt").ok_or_else(|| fields.invalid("prompt", "is missing"))?;
    if let Value::Array(list) = &mut prompt
        && list.first().is_some_and(|first| !first.is_number())
    {
        if list.len() > 1 {
            return Err(fields.invalid("prompt", "several prompts in one request are not supported: send one each"));
        }
        prompt = list.swap_remove(0);
    }
    match prompt {
        Value::String(text) => Ok(Input::Text(text)),
        ids if is_set(&ids) => {
            let ids = serde_json::from_value(ids).map_err(|_| fields.invalid("prompt", wrong))?;
            Ok(Input::Tokens { ids, images: Vec::new() })
        }
        _ => Err(fields.invalid("prompt", "must not be empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<(Request, Delivery), RequestError> {
        parse(body.to_string().as_bytes(), &Call::for_tests())
    }

    #[test]
    fn a_prompt_may_be_text_or_tokens_alone_or_in_a_list_of_one() {
        for prompt in [json!("Hi"), json!(["Hi"])] {
            assert!(matches!(read(json!({ "prompt": prompt })).unwrap().0.input, Some(Input::Text(text)) if text == "Hi"));
        }
        for prompt in [json!([1, 2]), json!([[1, 2]])] {
            assert!(
                matches!(read(json!({ "prompt": prompt })).unwrap().0.input, Some(Input::Tokens { ids, .. }) if ids == [1, 2])
            );
        }
    }

    #[test]
    fn what_the_endpoint_cannot_do_is_refused_by_name() {
        for (body, field) in [
            (json!({}), "prompt"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": ["a", "b"]}), "prompt"),
            (json!({"prompt": {"a": 1}}), "prompt"),
            (json!({"prompt": [1, -2]}), "prompt"),
            (json!({"prompt": "a", "echo": true}), "echo"),
            (json!({"prompt": "a", "suffix": "b"}), "suffix"),
            (json!({"prompt": "a", "best_of": 3, "n": 2}), "best_of"),
            (json!({"prompt": "a", "stream_options": {"include_usage": true}}), "stream_options"),
        ] {
            assert_eq!(read(body).unwrap_err().field.as_deref(), Some(field));
        }
    }

    #[test]
    fn the_older_endpoints_default_length_is_its_own() {
        assert_eq!(read(json!({"prompt": "a"})).unwrap().0.sampling.max_new_tokens, Some(16));
    }
}
