//! A router's life as its platform sees it: health, reflection, shutdown.

use std::time::Duration;

use tessera_proto::{retry_delay, v1, v1::generate_response::Event};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

use crate::{
    fake::Script,
    harness::{House, ask, eventually},
};

#[tokio::test]
async fn health_follows_the_replicas() {
    let house = House::of(Script::default()).await;
    let mut client = HealthClient::new(house.channel().await);
    let mut watch = client.watch(HealthCheckRequest { service: "tessera.v1.Inference".into() }).await.unwrap().into_inner();
    let mut until = async |status: ServingStatus| {
        while let Some(update) = watch.message().await.unwrap() {
            if update.status() == status {
                return;
            }
        }
        panic!("the watch ended before {status:?}");
    };
    until(ServingStatus::Serving).await;
    house.fakes[0].script(|script| script.ready = false);
    until(ServingStatus::NotServing).await;
    assert_eq!(house.get("/health").await.0, 503);
    house.fakes[0].script(|script| script.ready = true);
    until(ServingStatus::Serving).await;
    assert_eq!(house.get("/health").await.0, 200);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let house = House::of(Script::default()).await;
    let mut client = ServerReflectionClient::new(house.channel().await);
    let request =
        ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let Some(Ok(answer)) = answers.next().await else { panic!("an answer") };
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("a list") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["tessera.v1.Inference", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|listed| listed == name), "{names:?}");
    }
}

#[tokio::test]
async fn a_request_in_flight_may_finish_after_shutdown_was_asked_for() {
    let house = House::of(Script { pace: Duration::from_millis(2), ..Script::default() }).await;
    let mut stream = house.client().await.generate(ask(v1::Sampling::default())).await.unwrap().into_inner();
    stream.message().await.unwrap();
    house.shut_down();
    let mut last = None;
    while let Some(response) = stream.message().await.unwrap() {
        last = response.event;
    }
    assert!(matches!(last, Some(Event::Usage(usage)) if usage.generated_tokens == 45));
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_ends_in_an_error_that_says_so() {
    let house = House::of(Script { pace: Duration::from_millis(20), ..Script::default() }).await;
    let long = v1::Sampling { ignore_eos: Some(true), max_new_tokens: Some(4000), ..Default::default() };
    let mut stream = house.client().await.generate(ask(long)).await.unwrap().into_inner();
    stream.message().await.unwrap();
    house.shut_down();
    let status = loop {
        match stream.message().await {
            Ok(response) => assert!(response.is_some(), "the stream must not end in silence"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("shutting down") && retry_delay(&status).is_some());
    eventually("the replica is freed", || house.seen().running() == 0).await;
}
