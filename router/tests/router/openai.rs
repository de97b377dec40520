//! Answers as OpenAI's clients expect them.

use serde_json::{Value, json};

use crate::{
    fake::Script,
    harness::{House, config, png},
};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn chat(fields: Value) -> String {
    let mut body = json!({"model": "bytes", "messages": [{"role": "user", "content": "Say it."}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body.to_string()
}

async fn answer(house: &House, path: &str, body: String) -> Value {
    let response = house.post(path, body).await;
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{body}");
    body
}

/// The chunks of a stream, which must end with `[DONE]`.
async fn chunks(house: &House, path: &str, body: String) -> Vec<Value> {
    let response = house.post(path, body).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let text = response.text().await.unwrap();
    let mut events: Vec<&str> = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn said(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    choices.filter(|choice| choice["index"] == index).filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_chat_answer_has_a_message_an_end_and_exact_usage() {
    let house = House::of(Script::default()).await;
    let body = answer(&house, CHAT, chat(json!({}))).await;
    assert_eq!((body["object"].as_str(), body["model"].as_str()), (Some("chat.completion"), Some("bytes")));
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &body["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": Script::default().answer}));
    assert_eq!(choice["finish_reason"], "stop");
    let (prompt, completion) = (house.seen().last().prompt.len() as u64, Script::default().answer.len() as u64 + 1);
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 5},
        })
    );
}

#[tokio::test]
async fn a_chat_stream_says_who_speaks_once_then_what_then_why_it_ended() {
    let house = House::of(Script::default()).await;
    let chunks = chunks(&house, CHAT, chat(json!({"stream": true, "max_tokens": 9}))).await;
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let roles: Vec<_> = chunks.iter().map(|chunk| chunk["choices"][0]["delta"]["role"].as_str()).collect();
    assert_eq!(roles[0], Some("assistant"));
    assert!(roles[1..].iter().all(Option::is_none));
    assert_eq!(said(&chunks, 0), "The quick");
    let reasons: Vec<_> = chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(reasons, ["length"]);
}

#[tokio::test]
async fn usage_comes_last_or_with_every_chunk_as_asked() {
    let house = House::of(Script::default()).await;
    let last = chunks(&house, CHAT, chat(json!({"stream": true, "stream_options": {"include_usage": true}}))).await;
    let (usage, before) = last.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(45)));
    assert!(before.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let every = chunks(&house, CHAT, chat(json!({"stream": true, "stream_options": options}))).await;
    let counts: Vec<_> = every.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted() && counts[0] == 1 && counts.last() == Some(&45), "{counts:?}");
}

#[tokio::test]
async fn token_ids_come_when_asked_for() {
    let house = House::of(Script::default()).await;
    let ids: Vec<u64> = "The quick".bytes().map(|byte| 1000 + u64::from(byte)).collect();
    let body = answer(&house, CHAT, chat(json!({"return_token_ids": true, "max_tokens": 9}))).await;
    let prompt = json!(house.seen().last().prompt);
    assert_eq!((&body["prompt_token_ids"], &body["choices"][0]["token_ids"]), (&prompt, &json!(ids)));
    let chunks = chunks(&house, CHAT, chat(json!({"return_token_ids": true, "max_tokens": 9, "stream": true}))).await;
    assert_eq!(chunks[0]["prompt_token_ids"], prompt);
    assert!(chunks[1..].iter().all(|chunk| chunk.get("prompt_token_ids").is_none()));
    let told: Vec<u64> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["token_ids"].as_array().unwrap())
        .map(|id| id.as_u64().unwrap())
        .collect();
    assert_eq!(told, ids);
    let plain = answer(&house, CHAT, chat(json!({}))).await;
    assert!(plain.get("prompt_token_ids").is_none() && plain["choices"][0].get("token_ids").is_none());
}

#[tokio::test]
async fn n_choices_and_stop_strings_work_in_one_piece_and_in_chunks() {
    let house = House::of(Script::default()).await;
    let fields = json!({"n": 2, "stop": ["fox", "nothing"]});
    let body = answer(&house, CHAT, chat(fields.clone())).await;
    let streamed = chunks(&house, CHAT, chat(json!({"n": 2, "stop": ["fox", "nothing"], "stream": true}))).await;
    for index in 0..2 {
        let choice = &body["choices"][index];
        assert_eq!(
            (choice["index"].as_u64(), choice["message"]["content"].as_str()),
            (Some(index as u64), Some("The quick brown "))
        );
        assert_eq!((choice["finish_reason"].as_str(), choice["stop_reason"].as_str()), (Some("stop"), Some("fox")));
        assert_eq!(said(&streamed, index as u64), "The quick brown ");
    }
}

#[tokio::test]
async fn log_probabilities_have_the_form_of_each_endpoint() {
    let house = House::of(Script { answer: "Né".into(), ..Script::default() }).await;
    let body = answer(&house, CHAT, chat(json!({"logprobs": true, "top_logprobs": 2}))).await;
    let content = body["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 4);
    assert_eq!((&content[0]["token"], &content[0]["logprob"], &content[0]["bytes"]), (&json!("N"), &json!(-0.5), &json!([78])));
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    let body = answer(&house, TEXT, json!({"prompt": "Hi", "logprobs": 1}).to_string()).await;
    let logprobs = &body["choices"][0]["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), 4, "{list}");
    }
    assert_eq!(logprobs["tokens"][0], "N");
    let body = answer(&house, CHAT, chat(json!({}))).await;
    assert!(body["choices"][0]["logprobs"].is_null());
}

#[tokio::test]
async fn the_older_endpoint_continues_text_and_tokens() {
    let house = House::of(Script::default()).await;
    let body = answer(&house, TEXT, json!({"prompt": ["Hi"]}).to_string()).await;
    assert_eq!(
        (body["object"].as_str(), body["choices"][0]["text"].as_str()),
        (Some("text_completion"), Some("The quick brown "))
    );
    assert_eq!(house.seen().last().prompt, [1, 1000 + 72, 1000 + 105]);
    let body = json!({"prompt": [1, 1072], "max_tokens": 3, "stream": true}).to_string();
    let text: String = chunks(&house, TEXT, body).await.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!((text.as_str(), house.seen().last().prompt), ("The", vec![1, 1072]));
}

#[tokio::test]
async fn an_image_in_a_data_uri_reaches_the_replica() {
    use base64::Engine;
    let house = House::of(Script::default()).await;
    let uri = format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(png(32, 32)));
    let content = json!([{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": uri}}]);
    let body = answer(&house, CHAT, json!({"messages": [{"role": "user", "content": content}]}).to_string()).await;
    assert_eq!(body["choices"][0]["message"]["content"], Script::default().answer);
    assert_eq!(house.seen().last().images.len(), 1);
}

#[tokio::test]
async fn an_error_on_the_way_is_an_event_of_the_stream() {
    let mut config = config();
    config.limits.max_duration = std::time::Duration::from_secs(1);
    let house = House::with(config, vec![Script { pace: std::time::Duration::from_millis(100), ..Script::default() }]).await;
    let chunks = chunks(&house, CHAT, chat(json!({"stream": true}))).await;
    let (error, before) = chunks.split_last().unwrap();
    assert_eq!(error["error"]["code"], "timeout");
    assert!(Script::default().answer.starts_with(&said(before, 0)));
    let response = house.post(CHAT, chat(json!({}))).await;
    assert_eq!(response.status(), 504);
}
