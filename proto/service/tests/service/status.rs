//! What a process tells those who watch it, as they read it.

use std::{net::SocketAddr, time::Duration};

use tessera_service::{Health, Phase, metrics, serve_status};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::support::{loopback, soon};

/// The status code and the body.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn readiness_follows_health_and_metrics_are_there_all_along() {
    metrics::install().unwrap();
    ::metrics::counter!(metrics::REPLAYS_TOTAL).increment(2);
    let (health, bound, stop) = (Health::new(Duration::from_secs(3600)), loopback().await, CancellationToken::new());
    let (address, seen) = (bound.address, health.clone());
    let served = tokio::spawn(serve_status(bound, move || seen.problem().map(str::to_owned), stop.clone()));

    assert_eq!(get(address, "/readyz").await, (503, "starting\n".into()));
    assert_eq!(get(address, "/healthz").await, (200, "alive\n".into()), "a process that starts is not to be killed for it");
    health.enter(Phase::Serving);
    assert_eq!(get(address, "/readyz").await, (200, "ready\n".into()));
    health.enter(Phase::Draining);
    assert_eq!(get(address, "/readyz").await, (503, "draining\n".into()));
    let (code, text) = get(address, "/metrics").await;
    assert!(code == 200 && text.lines().any(|line| line == "tessera_replays_total 2"), "{text}");
    assert_eq!(get(address, "/elsewhere").await.0, 404);

    stop.cancel();
    soon(served).await.unwrap();
    TcpStream::connect(address).await.unwrap_err();
}
