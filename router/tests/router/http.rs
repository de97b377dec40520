//! HTTP as such: what is there, what is not, and clients that misbehave.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    fake::Script,
    harness::{House, config, eventually},
};

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = r#"{"messages": [{"role": "user", "content": "Hello"}]}"#;

async fn error(house: &House, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let response = house.post(path, body).await;
    let status = response.status().as_u16();
    let body: Value = response.json().await.expect("an error is JSON");
    assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string(), "{body}");
    (status, body["error"].clone())
}

/// Sends bytes, closes the sending half, and reads to the end.
async fn half_closed(house: &House, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(house.http.trim_start_matches("http://")).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection must end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused_with_the_reason() {
    let house = House::of(Script::default()).await;
    for (body, mention) in [
        (&b"{\"model\": \"\xff\xfe\"}"[..], "UTF-8"),
        (b"{\"model\": ", "JSON"),
        (b"", "JSON"),
        (b"[1]", "object"),
        (br#"{"messages": "Hi"}"#, "messages"),
        (br#"{"messages": []}"#, "messages"),
        (br#"{"messages": [{"role": "oracle", "content": "Hi"}]}"#, "messages[0].role"),
        (br#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}]}]}"#, "content[0].image_url"),
        (br#"{"messages": [{"role": "user", "content": "Hi"}], "temperature": -3}"#, "temperature"),
        (br#"{"messages": [{"role": "user", "content": "Hi"}], "temperature": 1e300}"#, "temperature"),
        (br#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": -3}"#, "max_tokens"),
        (br#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 0}"#, "max_tokens"),
    ] {
        let (status, error) = error(&house, CHAT, body.to_vec()).await;
        assert_eq!((status, error["type"].as_str()), (400, Some("invalid_request_error")), "{error}");
        assert!(error.to_string().contains(mention), "{error} does not mention {mention}");
    }
    assert_eq!(house.seen().calls(), 0);
    assert_eq!(house.post(CHAT, HELLO).await.status(), 200);
}

#[tokio::test]
async fn statuses_are_those_of_openais_api() {
    let mut config = config();
    config.limits.max_body_bytes = 20_000;
    let house = House::with(config, vec![Script::default()]).await;
    let (status, error_body) =
        error(&house, CHAT, r#"{"model": "gpt-2", "messages": [{"role": "user", "content": "Hi"}]}"#).await;
    assert_eq!(
        (status, error_body["code"].as_str(), error_body["param"].as_str()),
        (404, Some("model_not_found"), Some("model"))
    );
    let long = HELLO.replace("Hello", &"x".repeat(10_000));
    let (status, error_body) = error(&house, CHAT, long).await;
    assert_eq!((status, error_body["code"].as_str()), (400, Some("context_length_exceeded")));
    assert_eq!(error(&house, CHAT, HELLO.replace("Hello", &"x".repeat(30_000))).await.0, 413);
    assert_eq!(error(&house, "/v1/nonsense", "{}").await.0, 404);
    assert_eq!(house.get(CHAT).await.0, 405);
    house.fakes[0].script(|script| script.ready = false);
    eventually("the router hears of it", || house.ready() == 0).await;
    let response = house.post(CHAT, HELLO).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn models_and_health_and_metrics_are_told() {
    let house = House::of(Script::default()).await;
    let (status, models) = house.get("/v1/models").await;
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(
        (status, models["data"][0]["id"].as_str(), models["data"][0]["max_model_len"].as_u64()),
        (200, Some("bytes"), Some(4096))
    );
    assert_eq!(house.get("/v1/models/bytes").await.0, 200);
    assert_eq!(house.get("/v1/models/gpt-2").await.0, 404);
    assert_eq!(house.get("/health").await.0, 200);
    house.post(CHAT, HELLO).await.bytes().await.unwrap();
    let (status, text) = house.get("/metrics").await;
    assert!(
        status == 200 && text.contains("tessera_generated_tokens_total") && text.contains("tessera_time_to_first_token_seconds"),
        "{text}"
    );
}

#[tokio::test]
async fn a_calls_name_comes_back_and_one_is_made_up_when_there_is_none() {
    let house = House::of(Script::default()).await;
    let client = reqwest::Client::new();
    let ask = |id: &'static str| client.post(format!("{}{CHAT}", house.http)).header("x-request-id", id).body(HELLO).send();
    let response = ask("my-call.1").await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "my-call.1");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["id"], "chatcmpl-my-call.1");
    assert!(house.seen().last().request_id.starts_with("my-call.1"));
    let made_up = ask("two words").await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(made_up.len(), 32);
}

#[tokio::test]
async fn garbled_and_half_closed_connections_do_no_harm() {
    let house = House::of(Script::default()).await;
    let whole = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{HELLO}", HELLO.len());
    let cut = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n{{");
    for bytes in
        [&b""[..], b"\x00\xff\x00\xff", b"GET", b"POST /v1/chat/completions HTTP/1.1\r\n", cut.as_bytes(), whole.as_bytes()]
    {
        half_closed(&house, bytes).await;
    }
    assert_eq!(house.post(CHAT, HELLO).await.status(), 200);
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_the_replica() {
    let house = House::of(Script { pace: Duration::from_millis(5), ..Script::default() }).await;
    for stream in [true, false] {
        let body = format!(r#"{{"prompt": "Hi", "ignore_eos": true, "max_tokens": 4000, "stream": {stream}}}"#);
        let head = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut connection = TcpStream::connect(house.http.trim_start_matches("http://")).await.unwrap();
        connection.write_all((head + &body).as_bytes()).await.unwrap();
        eventually("the request runs", || house.seen().running() == 1).await;
        drop(connection);
        eventually("its sequence is freed", || house.seen().running() == 0).await;
    }
}
