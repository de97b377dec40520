use serde_json::json;

use super::*;

fn read(body: Value) -> Result<(Request, Delivery), RequestError> {
    parse(body.to_string().as_bytes(), &Call::for_tests())
}

fn with(fields: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

#[test]
fn content_is_a_string_or_parts_and_images_come_in_both_spellings() {
    let (request, _) = read(json!({"messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
            {"type": "image_url", "image_url": "data:image/png;base64,aGk="},
        ], "name": "ann"},
        {"role": "assistant", "content": null},
    ]}))
    .unwrap();
    let Some(Input::Messages(messages)) = request.input else { panic!("messages") };
    assert_eq!(messages[0].role, "system");
    assert!(matches!(&messages[0].content, Content::Text(text) if text == "Be brief."));
    let Content::Parts(parts) = &messages[1].content else { panic!("parts") };
    let [Part::Text(_), Part::Image(url), Part::Image(data)] = &parts[..] else { panic!("text and two images") };
    assert!(matches!(&url.data, ImageData::Url(_)) && matches!(&data.data, ImageData::DataUri(_)));
    assert!(matches!(&messages[2].content, Content::Text(text) if text.is_empty()));
}

#[test]
fn every_sampling_field_arrives() {
    let (request, delivery) = read(with(json!({
        "model": "m", "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1,
        "repetition_penalty": 1.1, "seed": -1, "n": 2, "logit_bias": {"7": -100, "3": 1}, "max_tokens": 5,
        "max_completion_tokens": 6, "min_tokens": 2, "stop": "end", "stop_token_ids": [9], "ignore_eos": true,
        "logprobs": true, "top_logprobs": 3, "include_stop_str_in_output": true, "return_token_ids": true, "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true}, "user": "someone", "metadata": {"a": "b"},
    })))
    .unwrap();
    let expected = crate::request::RawSampling {
        temperature: Some(0.5),
        top_p: Some(0.9),
        top_k: Some(0),
        min_p: Some(0.1),
        presence_penalty: Some(1.0),
        frequency_penalty: Some(-1.0),
        repetition_penalty: Some(1.1),
        seed: Some(u64::MAX),
        n: Some(2),
        logit_bias: vec![(3, 1.0), (7, -100.0)],
        max_new_tokens: Some(6),
        min_new_tokens: Some(2),
        stop: vec!["end".into()],
        stop_token_ids: vec![9],
        include_stop: Some(true),
        ignore_eos: Some(true),
        logprobs: Some(3),
        prompt_logprobs: None,
    };
    assert_eq!(request.sampling, expected);
    assert_eq!((request.model.as_str(), request.return_token_ids), ("m", true));
    assert_eq!(delivery, Delivery { stream: true, include_usage: true, continuous_usage: true });
}

#[test]
fn what_is_wrong_is_named() {
    for (body, field) in [
        (json!({}), "messages"),
        (json!({"messages": "Hi"}), "messages"),
        (json!({"messages": ["Hi"]}), "messages[0]"),
        (json!({"messages": [{"content": "Hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}), "messages[0].content[0].text"),
        (json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}), "messages[0].content[0].type"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages[0].content[0].image_url.url",
        ),
        (with(json!({"temperature": "hot"})), "temperature"),
        (with(json!({"n": -1})), "n"),
        (with(json!({"max_tokens": 1.5})), "max_tokens"),
        (with(json!({"stop": [1]})), "stop"),
        (with(json!({"seed": 0.5})), "seed"),
        (with(json!({"top_k": -2})), "top_k"),
        (with(json!({"logit_bias": {"a": 1}})), "logit_bias"),
        (with(json!({"top_logprobs": 2})), "top_logprobs"),
        (with(json!({"tools": [{"type": "function"}]})), "tools"),
        (with(json!({"response_format": {"type": "json_schema"}})), "response_format"),
        (with(json!({"stream": true, "stream_options": {"include_usage": 1}})), "stream_options.include_usage"),
    ] {
        assert_eq!(read(body).unwrap_err().field.as_deref(), Some(field));
    }
}

#[test]
fn harmless_values_of_what_is_not_supported_pass() {
    assert!(
        read(with(json!({"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"]})))
            .is_ok()
    );
}

#[test]
fn a_body_that_is_not_text_or_not_json_is_refused_with_the_reason() {
    let call = Call::for_tests();
    let problem = |body: &[u8]| parse(body, &call).unwrap_err().problem;
    assert!(problem(b"{\"model\": \"\xff\"}").contains("not UTF-8"));
    assert!(problem(b"{\"model\": ").contains("not JSON"));
    assert!(problem(b"[]").contains("object"));
    assert!(problem(br#"{"model": "\ud800"}"#).contains("not JSON"));
}
