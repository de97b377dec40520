//! What a shard worker is told when it starts, resolved.

use std::{net::SocketAddr, time::Duration};

use tessera_service::TlsFiles;

/// A shard worker's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Unique among workers.
    pub id: String,
    /// Where coordinators call; port 0 picks one.
    pub listen: SocketAddr,
    /// The address coordinators are told, `HOST:PORT` or a URI; the one listened on when `None`.
    pub advertise: Option<String>,
    /// Workers of one host meet in shared memory.
    pub host: String,
    /// Threads that compute.
    pub threads: usize,
    /// Memory for keys and values, in bytes.
    pub kv_memory: u64,
    /// Mutual TLS with coordinators; plain connections when `None`.
    pub tls: Option<TlsFiles>,
    /// How soon others notice the worker's death by its lease.
    pub lease: Duration,
    /// Calls in progress may end within this when it stops.
    pub grace: Duration,
}
