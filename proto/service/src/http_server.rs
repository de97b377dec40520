//! Serving HTTP: connections accepted, served, and drained at the end.

use std::{io, net::SocketAddr, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{Acceptor, Bound, tls::accept};

/// A client that has not sent its headers by then is cut off.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
/// Connections at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 8192;

/// Serves `app` by HTTP/1.1 and HTTP/2 until `stop`; then lets requests in flight finish, for as long as `grace`.
pub async fn serve_http(bound: Bound, app: axum::Router, stop: CancellationToken, grace: Duration) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(HEADERS_WITHIN));
    let Bound { listener, tls, .. } = bound;
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let Some(stream) = ready(accepted).await else { continue };
                let door = Door { tls: tls.clone(), builder: builder.clone(), app: app.clone() };
                connections.spawn(door.serve(stream, graceful.watcher()));
            }
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    if timeout(grace, graceful.shutdown()).await.is_err() {
        warn!(connections = connections.len(), "HTTP connections were cut off at the end of the drain");
    }
}

async fn ready(accepted: io::Result<(TcpStream, SocketAddr)>) -> Option<TcpStream> {
    match accepted {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            // Out of file descriptors, most likely: it passes when connections end.
            warn!(%error, "an HTTP connection could not be accepted");
            sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// What a connection is served with.
struct Door {
    tls: Option<Acceptor>,
    builder: Builder<TokioExecutor>,
    app: axum::Router,
}

impl Door {
    async fn serve(self, stream: TcpStream, watcher: Watcher) {
        let Ok(stream) = accept(self.tls.as_ref(), stream).await else { return };
        let connection = self.builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.app));
        if let Err(error) = watcher.watch(connection).await {
            debug!(%error, "an HTTP connection ended early");
        }
    }
}
