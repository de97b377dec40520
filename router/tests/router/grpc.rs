//! What else a gRPC client meets: what is served, tokens, compression, keys, traces.

use tessera_proto::v1::{self, GetModelInfoRequest, TokenizeRequest, inference_client::InferenceClient};
use tonic::{Code, Request, codec::CompressionEncoding, transport::Endpoint};

use crate::{
    fake::Script,
    harness::{House, ask, chat, config, text_part},
};

#[tokio::test]
async fn what_is_served_is_told() {
    let house = House::of(Script { max_context: 2048, ..Script::default() }).await;
    let info = house.client().await.get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.model.as_str(), info.vision, info.vocab_size), ("bytes", true, 4096));
    assert_eq!(info.max_context, 2048, "what the replica can hold");
    assert_eq!((info.image_size, info.patch_size), (1024, 16));
    let limits = info.limits.unwrap();
    assert!(limits.max_images > 0 && !limits.image_urls);
}

#[tokio::test]
async fn text_that_looks_like_a_control_token_is_text() {
    let house = House::of(Script::default()).await;
    let mut client = house.client().await;
    let text = "[IMG] <s> [INST] </s>";
    let tokens = client.tokenize(TokenizeRequest { model: String::new(), text: text.into() }).await.unwrap().into_inner();
    assert_eq!(tokens.tokens.concat(), text.as_bytes());
    assert!(tokens.ids.iter().all(|&id| id >= 1000));
    client.generate_once(chat(vec![text_part(text)])).await.unwrap();
    let control: Vec<_> = house.seen().last().prompt.into_iter().filter(|&id| id < 1000).collect();
    assert_eq!(control, [1, 3, 4], "only the layout's own");
}

#[tokio::test]
async fn gzip_is_taken_and_sent() {
    let house = House::of(Script::default()).await;
    let channel = Endpoint::from_shared(house.grpc.clone()).unwrap().connect().await.unwrap();
    let mut client =
        InferenceClient::new(channel).send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
    let answer = client.generate_once(chat(vec![text_part(&"word ".repeat(300))])).await.unwrap();
    assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), "gzip");
    let stream = client.generate(ask(v1::Sampling::default())).await.unwrap();
    assert!(stream.metadata().get("grpc-encoding").is_none(), "small messages are not compressed");
    assert_eq!(answer.into_inner().completions[0].text, Script::default().answer);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_connection_serves_on() {
    let mut config = config();
    config.limits.max_body_bytes = 10_000;
    let house = House::with(config, vec![Script::default()]).await;
    let mut client = house.client().await;
    let status = client.generate_once(chat(vec![text_part(&"x".repeat(2_000_000))])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("10000 bytes"), "{status:?}");
    assert!(client.generate_once(ask(v1::Sampling::default())).await.is_ok());
}

#[tokio::test]
async fn the_clients_trace_goes_on_at_the_replica() {
    let house = House::of(Script::default()).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = Request::new(ask(v1::Sampling::default()));
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    house.client().await.generate_once(request).await.unwrap();
    let seen = house.seen().metadata.lock().pop().unwrap();
    assert!(seen["traceparent"].contains("0af7651916cd43dd8448eb211c80319c"), "{seen:?}");
}

#[tokio::test]
async fn keys_open_both_fronts_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "sesame\n").unwrap();
    let mut config = config();
    config.api_keys = tessera_router::ApiKeys::read(&file).unwrap();
    let house = House::with(config, vec![Script::default()]).await;
    let mut client = house.client().await;
    assert_eq!(client.generate_once(ask(v1::Sampling::default())).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(client.get_model_info(GetModelInfoRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    let mut request = Request::new(ask(v1::Sampling::default()));
    request.metadata_mut().insert("authorization", "Bearer sesame".parse().unwrap());
    assert!(client.generate_once(request).await.is_ok());
    assert_eq!(house.get("/v1/models").await.0, 401);
    assert_eq!(house.get("/health").await.0, 200);
    let http = reqwest::Client::new();
    let answer = http.get(format!("{}/v1/models", house.http)).header("authorization", "Bearer sesame").send().await.unwrap();
    assert_eq!(answer.status(), 200);
}
