//! Binding, and ending while calls are in progress.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tessera_service::{Bound, ServeError, bind, metrics, peer, serve};
use tokio::{net::TcpStream, sync::Semaphore, task::yield_now};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codegen::BoxStream, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};

use crate::support::{Process, loopback, soon};

/// Answers when it is let.
struct Slow {
    arrived: Arc<Semaphore>,
    answer: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Health for Slow {
    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.arrived.add_permits(1);
        let _may = self.answer.acquire().await;
        Ok(Response::new(HealthCheckResponse { status: 1 }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn slow() -> (Routes, Arc<Semaphore>, Arc<Semaphore>) {
    let (arrived, answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let service = Slow { arrived: arrived.clone(), answer: answer.clone() };
    (Routes::new(HealthServer::new(service)), arrived, answer)
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = loopback().await;
    let error = bind(taken.address).await.unwrap_err();
    assert!(matches!(error, ServeError::Bind { .. }));
    assert!(error.to_string().contains(&taken.address.to_string()), "{error}");
}

#[tokio::test]
async fn what_is_no_address_is_named() {
    let error = peer("not an address", None).unwrap_err();
    assert!(error.to_string().contains("`not an address`"), "{error}");
}

#[tokio::test]
async fn a_call_in_progress_ends_well_and_no_new_one_begins() {
    let (routes, arrived, answer) = slow();
    let (stop, bound) = (CancellationToken::new(), loopback().await);
    let Bound { address, .. } = bound;
    let served = tokio::spawn(serve(bound, routes, stop.clone(), Duration::from_secs(3600)));
    let mut client = HealthClient::new(peer(&address.to_string(), None).unwrap());
    let call = tokio::spawn(async move { client.check(HealthCheckRequest::default()).await });
    let _ = soon(arrived.acquire()).await.unwrap();
    stop.cancel();
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    assert!(!served.is_finished());
    answer.add_permits(1);
    soon(call).await.unwrap().unwrap();
    soon(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_off() {
    let (routes, arrived, _never) = slow();
    let (stop, bound) = (CancellationToken::new(), loopback().await);
    let address = bound.address.to_string();
    let served = tokio::spawn(serve(bound, routes, stop.clone(), Duration::from_millis(50)));
    let mut client = HealthClient::new(peer(&address, None).unwrap());
    let call = tokio::spawn(async move { client.check(HealthCheckRequest::default()).await });
    let _ = soon(arrived.acquire()).await.unwrap();
    stop.cancel();
    soon(served).await.unwrap().unwrap();
    soon(call).await.unwrap().unwrap_err();
}

/// The value of a metric for the server at `address`.
fn counted(name: &str, address: SocketAddr) -> f64 {
    let text = metrics::render();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{server=\"{address}\"}} ")));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn connections_over_the_bound_are_refused_and_counted_until_one_is_given_back() {
    metrics::install().unwrap();
    let process = Process::start_on(loopback().await.at_most(2), Duration::from_secs(3600), Duration::ZERO).await;
    let call = async || {
        let channel = process.channel();
        HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(|_| channel)
    };
    let (first, second) = (soon(call()).await.unwrap(), soon(call()).await.unwrap());
    let open = || counted("tessera_connections", process.address);
    assert_eq!(open(), 2.0);
    soon(call()).await.unwrap_err();
    let refused = counted("tessera_connections_refused_total", process.address);
    assert!(refused >= 1.0, "{refused}");
    drop(first);
    let third = soon(async {
        loop {
            if let Ok(channel) = call().await {
                return channel;
            }
        }
    });
    let third = third.await;
    assert_eq!(open(), 2.0);
    drop((second, third));
    soon(async {
        while open() > 0.0 {
            yield_now().await
        }
    })
    .await;
}
