//! Channels to other processes.

use std::{error::Error, iter::successors, time::Duration};

use hyper_util::rt::TokioIo;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::Tls;

/// The port of an `https` address that names none.
const HTTPS_PORT: u16 = 443;

/// An address that no channel can be made to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` cannot be called: {problem}")]
pub struct PeerError {
    /// What was given.
    pub address: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A channel to `address` (`HOST:PORT` or a URI) that connects when it is first used, and again when it broke. With TLS,
/// only `https` addresses are called, and only those: what was meant to be secret must not go out plain because
/// somebody wrote another address. A silent peer is noticed by keep-alives; calls bound themselves.
pub fn peer(address: &str, tls: Option<&Tls>) -> Result<Channel, PeerError> {
    let wrong = |problem: String| PeerError { address: address.to_owned(), problem };
    let usual = if tls.is_some() { "https" } else { "http" };
    let (scheme, authority) = address.split_once("://").unwrap_or((usual, address));
    // For tonic every connection is plain: securing it is the connector's work.
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|error| wrong(error.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20);
    match (scheme, tls) {
        ("http", None) => Ok(endpoint.connect_lazy()),
        ("https", Some(tls)) => {
            let origin: Uri = format!("https://{authority}").parse().map_err(|error| wrong(format!("{error}")))?;
            Ok(secured(endpoint.origin(origin), tls))
        }
        ("https", None) => Err(wrong("it wants TLS, and this process was given no certificates".into())),
        ("http", Some(_)) => Err(wrong("it is plain, and this process was given certificates".into())),
        (other, _) => Err(wrong(format!("`{other}` is neither http nor https"))),
    }
}

/// What went wrong with a call, without the layers around it: `Connection refused` rather than `tcp connect error`.
pub fn reason(status: &Status) -> String {
    let innermost = successors(status.source(), |error| (*error).source()).last();
    innermost.map_or_else(|| status.message().to_owned(), ToString::to_string)
}

fn secured(endpoint: Endpoint, tls: &Tls) -> Channel {
    let tls = tls.clone();
    let connector = service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            tls.connect(host, uri.port_u16().unwrap_or(HTTPS_PORT)).await.map(TokioIo::new)
        }
    });
    endpoint.connect_with_connector_lazy(connector)
}
