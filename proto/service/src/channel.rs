//! Channels to other processes.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// An address that no channel can be made to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` is not an address: {problem}")]
pub struct PeerError {
    /// What was given.
    pub address: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A channel to `address` (`HOST:PORT` or a URI) that connects when it is first used, and again when it broke.
/// A silent peer is noticed by keep-alives; calls bound themselves.
pub fn peer(address: &str) -> Result<Channel, PeerError> {
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri);
    let endpoint = endpoint.map_err(|error| PeerError { address: address.to_owned(), problem: error.to_string() })?;
    let channel = endpoint
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .connect_lazy();
    Ok(channel)
}
