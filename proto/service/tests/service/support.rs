//! A server with the services that every process has, and what facts wait with.

use std::{net::SocketAddr, time::Duration};

use tessera_service::{Bound, Health, ServeError, bind, peer, reflection, serve};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{service::RoutesBuilder, transport::Channel};

pub(crate) const INFERENCE: &str = "tessera.v1.Inference";
/// What does not happen within this, does not happen.
const SOON: Duration = Duration::from_secs(30);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in time")
}

pub(crate) async fn loopback() -> Bound {
    bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
}

/// A server on a port of its own.
pub(crate) struct Process {
    pub(crate) health: Health,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<Result<(), ServeError>>,
}

impl Process {
    pub(crate) async fn start(patience: Duration, grace: Duration) -> Self {
        Self::start_on(loopback().await, patience, grace).await
    }

    pub(crate) async fn start_on(bound: Bound, patience: Duration, grace: Duration) -> Self {
        let (health, stop) = (Health::new(patience), CancellationToken::new());
        let address = bound.address;
        let mut routes = RoutesBuilder::default();
        routes.add_service(health.service(&[INFERENCE]));
        reflection(&mut routes, &[INFERENCE]).unwrap();
        let served = tokio::spawn(serve(bound, routes.routes(), stop.clone(), grace));
        Self { health, address, stop, served }
    }

    pub(crate) fn channel(&self) -> Channel {
        peer(&self.address.to_string(), None).unwrap()
    }
}
