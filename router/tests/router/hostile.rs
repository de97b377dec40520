//! Clients that mean harm, or are broken in ways that look like it.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tessera_proto::{v1, violations};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::sleep,
};
use tonic::{Code, Status};
use tower::Service;

use crate::{
    fake::Script,
    harness::{House, ask, chat, config, eventually, image_part, png, text_part},
};

/// A call of `Generate` whose message breaks off in its middle, and stays so.
async fn half_a_message(house: &House) -> JoinHandle<http::Response<tonic::body::Body>> {
    let half = Bytes::from_static(&[0, 0, 0, 4, 0, 10]);
    let frames = stream::iter([Ok::<_, Status>(Frame::data(half))]).chain(stream::pending());
    let call = http::Request::post(format!("{}/tessera.v1.Inference/Generate", house.grpc))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(StreamBody::new(frames)))
        .unwrap();
    let mut channel = house.channel().await;
    std::future::poll_fn(|context| Service::poll_ready(&mut channel, context)).await.unwrap();
    tokio::spawn(async move { channel.call(call).await.unwrap() })
}

/// A connection that has sent `said` to the HTTP front; it takes in little.
async fn speak(house: &House, said: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(house.http.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    stream.write_all(said.as_bytes()).await.unwrap();
    stream
}

async fn until_completions_answer(house: &House, status: u16) {
    for _ in 0..400 {
        if house.post("/v1/completions", r#"{"prompt": "Hi", "max_tokens": 1}"#).await.status() == status {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never answered with {status}");
}

#[tokio::test]
async fn a_call_without_a_key_is_refused_before_its_message_has_come() {
    let mut config = config();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys"), "secret\n").unwrap();
    config.api_keys = tessera_router::ApiKeys::read(&folder.path().join("keys")).unwrap();
    let house = House::with(config, vec![Script::default()]).await;
    let answer = half_a_message(&house).await.await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], (Code::Unauthenticated as i32).to_string());
}

#[tokio::test]
async fn a_request_counts_while_its_body_is_still_on_its_way() {
    let mut config = config();
    config.max_requests = 1;
    let house = House::with(config, vec![Script::default()]).await;
    let half = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{";
    let body = speak(&house, half).await;
    until_completions_answer(&house, 429).await;
    drop(body);
    until_completions_answer(&house, 200).await;
    let message = half_a_message(&house).await;
    until_completions_answer(&house, 429).await;
    let status = house.client().await.generate_once(ask(v1::Sampling::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    message.abort();
    until_completions_answer(&house, 200).await;
}

#[tokio::test]
async fn all_of_a_body_counts_as_memory_held() {
    let mut config = config();
    config.max_held_bytes = 1 << 20;
    let house = House::with(config, vec![Script::default()]).await;
    let padded = |bytes| format!(r#"{{"prompt": "Hi", "ignored": "{}"}}"#, "x".repeat(bytes));
    assert_eq!(house.post("/v1/completions", padded(2 << 20)).await.status(), 429);
    assert_eq!(house.post("/v1/completions", padded(1 << 19)).await.status(), 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_place_on_both_fronts() {
    let mut config = config();
    config.max_requests = 1;
    config.limits.max_unread = Duration::from_millis(200);
    let house = House::with(config, vec![Script::default()]).await;
    let body = r#"{"prompt": "Hi", "stream": true, "n": 16, "logprobs": 5, "max_tokens": 4000, "ignore_eos": true}"#;
    let head = format!("POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut unread = speak(&house, &(head + body)).await;
    eventually("the request runs", || house.seen().calls() == 1).await;
    until_completions_answer(&house, 200).await;
    let mut came = Vec::new();
    let _ = unread.read_to_end(&mut came).await;
    assert!(!came.ends_with(b"[DONE]\n\n\r\n0\r\n\r\n"), "it was not answered in full");

    let long =
        v1::Sampling { n: Some(16), ignore_eos: Some(true), max_new_tokens: Some(4000), logprobs: Some(5), ..Default::default() };
    let mut unread = house.client().await.generate(ask(long)).await.unwrap().into_inner();
    until_completions_answer(&house, 200).await;
    let status = loop {
        match unread.message().await {
            Ok(event) => assert!(event.is_some(), "it was not answered in full"),
            Err(status) => break status,
        }
    };
    assert_ne!(status.code(), Code::Ok, "{status:?}");
}

#[tokio::test]
async fn text_that_cannot_fit_is_refused_by_its_bytes_before_it_is_tokenized() {
    let house = House::of(Script::default()).await;
    let mut client = house.client().await;
    let text = "x".repeat(4097);
    let input = v1::count_tokens_request::Input::Text(text.clone());
    let counted = v1::CountTokensRequest { input: Some(input), ..Default::default() };
    let refusals = [
        client.generate_once(chat(vec![text_part(&text)])).await.unwrap_err(),
        client.count_tokens(counted).await.unwrap_err(),
        client.tokenize(v1::TokenizeRequest { text, ..Default::default() }).await.unwrap_err(),
    ];
    for (status, field) in refusals.iter().zip(["messages", "text", "text"]) {
        let (named, problem) = violations(status).remove(0);
        assert_eq!((status.code(), named.as_str()), (Code::InvalidArgument, field));
        assert!(problem.contains("4097 bytes") && problem.contains("4096 tokens"), "{problem}");
    }
}

#[tokio::test]
async fn more_image_sizes_than_images_in_a_request_are_not_counted() {
    let house = House::of(Script::default()).await;
    let sizes = |count| vec![v1::ImageSize { width: 16, height: 16 }; count];
    let count = |sizes| v1::CountTokensRequest { image_sizes: sizes, ..Default::default() };
    let mut client = house.client().await;
    assert!(client.count_tokens(count(sizes(64))).await.is_ok());
    let status = client.count_tokens(count(sizes(65))).await.unwrap_err();
    assert_eq!((status.code(), violations(&status)[0].0.as_str()), (Code::InvalidArgument, "image_sizes"));
}

#[tokio::test]
async fn an_images_type_may_have_parameters_or_say_nothing_of_use() {
    let house = House::of(Script::default()).await;
    for mime in ["IMAGE/PNG; q=1", "application/octet-stream"] {
        let mut part = image_part(v1::image::Source::Data(png(16, 16).into()));
        if let Some(v1::part::Part::Image(image)) = &mut part.part {
            image.mime = mime.into();
        }
        assert!(house.client().await.generate_once(chat(vec![part])).await.is_ok(), "{mime}");
    }
}

#[tokio::test]
async fn a_request_that_waits_for_a_replica_hears_of_the_shutdown() {
    let script = Script { pace: Duration::from_millis(20), break_after: Some((3, None)), ..Script::default() };
    let house = House::of(script).await;
    let mut stream = house.client().await.generate(ask(v1::Sampling::default())).await.unwrap().into_inner();
    house.fakes[0].script(|script| script.refuse = Some(Status::unavailable("gone")));
    house.shut_down();
    let status = loop {
        match stream.message().await {
            Ok(event) => assert!(event.is_some(), "the stream must not end in silence"),
            Err(status) => break status,
        }
    };
    assert!(status.code() == Code::Unavailable && status.message().contains("shutting down"), "{status:?}");
}
