//! Serving gRPC: bind first, so that the address is known and taken before anything depends on it.

use std::{net::SocketAddr, time::Duration};

use futures::StreamExt;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tracing::warn;

use crate::connection::Connection;

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
}

/// Takes an address.
pub async fn bind(address: SocketAddr) -> Result<Bound, ServeError> {
    let taken = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    };
    taken.await.map_err(|error| ServeError::Bind { address, error })
}

/// Serves until `stop` is cancelled, then lets calls in progress end, no longer than `grace`. When this returns, or is
/// dropped, no connection is left.
pub async fn serve(bound: Bound, routes: Routes, stop: CancellationToken, grace: Duration) -> Result<(), ServeError> {
    let Bound { listener, address } = bound;
    let cut = CancellationToken::new();
    let _at_the_end = cut.clone().drop_guard();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let incoming = incoming.map(move |stream| stream.map(|stream| Connection::new(stream, &cut)));
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let bounded = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
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
