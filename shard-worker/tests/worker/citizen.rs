//! The worker among others: registered, healthy, reflected, and gone in good order.

use tessera_registry::{MemoryStore, Registry, WorkerRecord, WorkerState};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

use crate::{
    golden::Golden,
    harness::{Group, Worker, until},
};

fn channel(worker: &Worker) -> Channel {
    Channel::from_shared(worker.address.clone()).unwrap().connect_lazy()
}

async fn record(registry: &Registry, id: &str) -> Option<WorkerRecord> {
    registry.members().await.unwrap().1.workers.remove(id)
}

#[tokio::test]
async fn a_worker_is_registered_with_what_it_holds_until_it_has_ended() {
    let registry = Registry::new(MemoryStore::new());
    let worker = Worker::start_in("w1", Some(registry.clone())).await;
    until("it is registered", async || record(&registry, "w1").await.is_some()).await;
    let first = record(&registry, "w1").await.unwrap();
    assert_eq!((first.address.as_str(), first.fingerprint, first.state), (&*worker.address, None, WorkerState::Ready));

    worker.load(Group::shm(1).request(1, 0)).await.unwrap();
    let holds = async |text: &str| record(&registry, "w1").await.unwrap().fingerprint.is_some_and(|f| f.contains(text));
    until("it tells what it holds", async || holds("tp 1 rank 0").await && holds("tiny-random/mistral").await).await;

    // A run in progress keeps it draining.
    let mut run = worker.run().await;
    run.send(Golden::read().plan(1, 1)).await;
    run.token().await;
    worker.stop.cancel();
    until("it drains", async || record(&registry, "w1").await.is_none_or(|w| w.state == WorkerState::Draining)).await;
    run.send(Golden::read().plan(1, 2)).await;
    assert_eq!(run.token().await, Golden::read().greedy[1], "steps go on while it drains");
    drop(run);
    worker.ended.await.unwrap().unwrap();
    assert_eq!(record(&registry, "w1").await, None);
}

#[tokio::test]
async fn a_free_worker_is_healthy() {
    let worker = Worker::start("a").await;
    let health = HealthClient::new(channel(&worker));
    for service in ["", "tessera.internal.v1.ShardWorker"] {
        let serving = async || {
            let asked = health.clone().check(HealthCheckRequest { service: service.into() }).await;
            asked.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
        };
        until("it is healthy", serving).await;
    }
}

#[tokio::test]
async fn its_service_is_reflected() {
    let worker = Worker::start("a").await;
    let mut client = ServerReflectionClient::new(channel(&worker));
    let list =
        ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let answers = client.server_reflection_info(tokio_stream::once(list)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect().await;
    let Some(MessageResponse::ListServicesResponse(list)) = answers[0].as_ref().unwrap().message_response.clone() else {
        panic!("{answers:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"tessera.internal.v1.ShardWorker".to_owned()), "{names:?}");
}
