//! Serving HTTP: connections accepted, served, and drained at the end.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::Request;
use hyper::body::Incoming;
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
use tower::util::MapRequest;
use tracing::{debug, warn};

use crate::{
    Acceptor, Bound,
    places::{Place, Places},
    tls::accept,
};

/// A client that has not asked for anything by then, or not sent the whole of a request's headers, is cut off.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);

/// Serves `app` by HTTP/1.1 and HTTP/2 until `stop`; then lets requests in flight finish, for as long as `grace`.
pub async fn serve_http(bound: Bound, app: axum::Router, stop: CancellationToken, grace: Duration) {
    serve_within(bound, app, stop, grace, HEADERS_WITHIN).await;
}

async fn serve_within(bound: Bound, app: axum::Router, stop: CancellationToken, grace: Duration, within: Duration) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(within);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(within));
    let Bound { listener, tls, address, connections: most } = bound;
    let places = Places::new(address, most);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Some(stream) = ready(accepted).await else { continue };
                let Some(place) = places.take() else { continue };
                let door = Door { tls: tls.clone(), within, builder: builder.clone(), app: app.clone(), _place: place };
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
    within: Duration,
    builder: Builder<TokioExecutor>,
    app: axum::Router,
    _place: Place,
}

impl Door {
    async fn serve(self, stream: TcpStream, watcher: Watcher) {
        let Ok(stream) = accept(self.tls.as_ref(), stream).await else { return };
        let asked = Arc::new(AtomicBool::new(false));
        let first = asked.clone();
        let app = MapRequest::new(self.app, move |request: Request<Incoming>| {
            first.store(true, Relaxed);
            request
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
        let mut connection = pin!(watcher.watch(connection));
        // The server below keeps no time before it knows which HTTP is spoken.
        let ended = match timeout(self.within, &mut connection).await {
            Ok(ended) => ended,
            Err(_) if asked.load(Relaxed) => connection.await,
            Err(_) => return debug!("an HTTP connection asked for nothing"),
        };
        if let Err(error) = ended {
            debug!(%error, "an HTTP connection ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_connection_that_says_nothing_and_one_that_breaks_off_are_closed() {
        let bound = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = bound.address;
        let app = axum::Router::new();
        tokio::spawn(serve_within(bound, app, CancellationToken::new(), Duration::ZERO, Duration::from_millis(20)));
        for said in [&b""[..], b"G", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nhost:"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            let mut heard = Vec::new();
            let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut heard)).await;
            assert!(ended.is_ok(), "{said:?} is still open");
        }
    }
}
