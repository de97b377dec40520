//! Health over the wire.

use std::time::Duration;

use tessera_service::Phase;
use tonic::{Code, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{INFERENCE, Process, soon};

const PATIENT: Duration = Duration::from_secs(3600);

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    soon(watch.message()).await.unwrap().unwrap().status()
}

/// A watch of the inference service, behind what it says first: that the process starts.
async fn watch(process: &Process) -> Streaming<HealthCheckResponse> {
    let mut watch = soon(HealthClient::new(process.channel()).watch(of(INFERENCE))).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await, ServingStatus::NotServing, "a process that starts does not serve yet");
    watch
}

#[tokio::test]
async fn every_service_is_told_of_and_no_other() {
    let process = Process::start(PATIENT, Duration::ZERO).await;
    let mut watch = watch(&process).await;
    process.health.enter(Phase::Serving);
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    let mut client = HealthClient::new(process.channel());
    assert_eq!(soon(client.check(of(INFERENCE))).await.unwrap().into_inner().status(), ServingStatus::Serving);
    assert_eq!(soon(client.check(of("tessera.v1.Absent"))).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn work_without_progress_ends_serving_and_progress_begins_it_again() {
    let process = Process::start(Duration::from_millis(300), Duration::ZERO).await;
    let mut watch = watch(&process).await;
    process.health.enter(Phase::Serving);
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    process.health.work_waits(true);
    assert_eq!(next(&mut watch).await, ServingStatus::NotServing);
    process.health.progressed();
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    process.health.work_waits(false);
}

#[tokio::test]
async fn those_who_watch_hear_of_a_drain_and_do_not_hold_it_up() {
    // A drain that waited for the watch would outlast `soon`.
    let process = Process::start(PATIENT, PATIENT).await;
    let mut watch = watch(&process).await;
    process.health.enter(Phase::Serving);
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    process.health.enter(Phase::Draining);
    process.stop.cancel();
    assert_eq!(next(&mut watch).await, ServingStatus::NotServing);
    assert!(soon(watch.message()).await.unwrap().is_none());
    soon(process.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_process_that_drains_still_answers_that_it_does_not_serve() {
    let process = Process::start(PATIENT, Duration::ZERO).await;
    let mut watch = watch(&process).await;
    process.health.enter(Phase::Draining);
    while soon(watch.message()).await.unwrap().is_some() {}
    let answer = soon(async {
        loop {
            // Between the end of the watches and the last word, the service is not known for a moment.
            match HealthClient::new(process.channel()).check(of(INFERENCE)).await {
                Err(status) if status.code() == Code::NotFound => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    });
    assert_eq!(answer.await.unwrap().into_inner().status(), ServingStatus::NotServing);
}
