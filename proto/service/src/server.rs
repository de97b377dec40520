//! Serving gRPC: bind first, so that the address is known and taken before anything depends on it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::response::IntoResponse;
use futures::StreamExt;
use http::Request;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::{Server, server::TcpIncoming},
};
use tower::Service;
use tracing::warn;

use crate::{Acceptor, Health, ReflectionError, connection::Connection, places::Places, reflection, tls::accept};

/// Connections that a server has at once where nobody says otherwise.
const CONNECTIONS: usize = 8192;
/// A client that has not begun to speak HTTP/2 by then is cut off.
const PREFACE_WITHIN: Duration = Duration::from_secs(30);
/// Handshakes at once; more connections wait in the listener's queue.
const HANDSHAKES: usize = 256;
/// Before another connection is taken when one could not be.
const AGAIN: Duration = Duration::from_millis(50);
/// Calls at once on a connection; a client's library lets more wait. A router has one connection to a coordinator.
const MAX_STREAMS: u32 = 4096;

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The server ended by itself.
    #[error("the server on {address} ended: {error}")]
    Ended {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: tonic::transport::Error,
    },
}

/// A listener with the address it really has.
#[derive(Debug)]
pub struct Bound {
    /// Takes connections.
    pub listener: TcpListener,
    /// Where; the port is real even when 0 was asked for.
    pub address: SocketAddr,
    /// Secures connections; they are plain when `None`.
    pub tls: Option<Acceptor>,
    /// Connections at once; more are refused.
    pub connections: usize,
}

/// Takes an address, for plain connections.
pub async fn bind(address: SocketAddr) -> Result<Bound, ServeError> {
    let taken = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address, tls: None, connections: CONNECTIONS })
    };
    taken.await.map_err(|error| ServeError::Bind { address, error })
}

impl Bound {
    /// The same, with connections secured where there is an acceptor.
    pub fn secured(self, tls: Option<Acceptor>) -> Self {
        Self { tls, ..self }
    }

    /// The same, with so many connections at once.
    pub fn at_most(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// The URI that others are told: of the address given for that (`HOST:PORT` or a URI), else of the one listened on.
    pub fn uri(&self, advertised: Option<&str>) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match advertised {
            Some(uri) if uri.contains("://") => uri.to_owned(),
            Some(address) => format!("{scheme}://{address}"),
            None => format!("{scheme}://{}", self.address),
        }
    }
}

/// A gRPC service, with health and reflection over it.
pub fn routes<S>(service: S, health: &Health) -> Result<Routes, ReflectionError>
where
    S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    let mut routes = RoutesBuilder::default();
    routes.add_service(service).add_service(health.service(&[S::NAME]));
    reflection(&mut routes, &[S::NAME])?;
    Ok(routes.routes())
}

/// Serves until `stop` is cancelled, then lets calls in progress end, no longer than `grace`. When this returns, or is
/// dropped, no connection is left.
pub async fn serve(bound: Bound, routes: Routes, stop: CancellationToken, grace: Duration) -> Result<(), ServeError> {
    serve_within(bound, routes, stop, grace, PREFACE_WITHIN).await
}

async fn serve_within(
    bound: Bound,
    routes: Routes,
    stop: CancellationToken,
    grace: Duration,
    preface: Duration,
) -> Result<(), ServeError> {
    let Bound { listener, address, tls, connections } = bound;
    let places = Arc::new(Places::new(address, connections));
    let cut = CancellationToken::new();
    let _at_the_end = cut.clone().drop_guard();
    let incoming = TcpIncoming::from(listener).map(move |stream| {
        let (tls, places) = (tls.clone(), places.clone());
        async move {
            match stream {
                Ok(stream) => {
                    let place = places.take()?;
                    Some((accept(tls.as_ref(), stream).await.ok()?, place))
                }
                Err(error) => {
                    // Out of file descriptors, most likely: it passes when connections end.
                    warn!(%error, "a connection could not be accepted");
                    sleep(AGAIN).await;
                    None
                }
            }
        }
    });
    // One that is slow to show who it is holds up nobody, and one that fails is not the server's failure.
    let incoming = incoming.buffer_unordered(HANDSHAKES).filter_map(std::future::ready);
    let incoming = incoming.map(move |(stream, place)| Ok::<_, std::io::Error>(Connection::new(stream, place, &cut, preface)));
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_concurrent_streams(Some(MAX_STREAMS))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let bounded = async {
        stop.cancelled().await;
        sleep(grace).await;
    };
    tokio::select! {
        ended = server => ended.map_err(|error| ServeError::Ended { address, error }),
        () = bounded => {
            warn!(%address, "calls in progress were cut off after {grace:?}");
            Ok(())
        }
    }
}

/// Waits for a task that was told to stop, no longer than `grace`; then it is cut off.
pub async fn finish(task: tokio::task::JoinHandle<()>, grace: Duration) {
    let cut = task.abort_handle();
    if timeout(grace, task).await.is_err() {
        cut.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    /// A server that cuts off who does not begin to speak within that.
    async fn server(within: Duration) -> SocketAddr {
        let bound = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let (address, health) = (bound.address, Health::new(Duration::ZERO));
        let mut routes = RoutesBuilder::default();
        routes.add_service(health.service(&[]));
        tokio::spawn(serve_within(bound, routes.routes(), CancellationToken::new(), Duration::ZERO, within));
        address
    }

    #[tokio::test]
    async fn a_client_that_does_not_begin_to_speak_is_cut_off() {
        let address = server(Duration::from_millis(20)).await;
        for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            let mut heard = Vec::new();
            let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut heard)).await;
            assert!(ended.is_ok(), "{said:?} is still open");
        }
    }

    #[tokio::test]
    async fn a_client_that_begins_to_speak_is_not_cut_off() {
        // Enough for a busy machine to get this test to speak, and then for the server to cut off who did not.
        let within = Duration::from_secs(3);
        let mut stream = TcpStream::connect(server(within).await).await.unwrap();
        // The preface, and settings that set nothing.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut heard = Vec::new();
        let ended = timeout(2 * within, stream.read_to_end(&mut heard)).await;
        assert!(ended.is_err() && !heard.is_empty(), "{heard:?}");
    }
}
