//! What a router is told.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tessera_service::{CertFiles, TlsFiles};
use tessera_types::ModelSpec;

use crate::{ApiKeys, FetchPolicy, Limits};

/// Everything a router is told, resolved.
#[derive(Clone)]
pub struct RouterConfig {
    /// Where to listen for gRPC; port 0 picks one.
    pub grpc: SocketAddr,
    /// Where to listen for HTTP; port 0 picks one.
    pub http: SocketAddr,
    /// TLS of both fronts; plain connections when `None`.
    pub front_tls: Option<CertFiles>,
    /// Mutual TLS with coordinators; plain connections when `None`.
    pub tls: Option<TlsFiles>,
    /// The name clients ask for.
    pub model_name: String,
    /// Where the tokenizer and the model's shape come from.
    pub model: ModelSource,
    /// Context to offer at most; the model's own, and what the replicas can hold, are bounds too.
    pub max_context: Option<usize>,
    /// Bounds on one request.
    pub limits: Limits,
    /// Connections that each front has at once; more are refused.
    pub max_connections: usize,
    /// Requests in flight.
    pub max_requests: usize,
    /// Bytes of bodies and pixels that requests in flight hold between them; more are refused.
    pub max_held_bytes: usize,
    /// Bytes that decoding images takes at once, as their headers tell it; those over that wait.
    pub max_decoding_bytes: usize,
    /// Images decoded and prepared at the same time.
    pub image_workers: usize,
    /// Whether and from where image URLs are fetched.
    pub fetch: FetchPolicy,
    /// Keys that callers must show; none lets everyone in.
    pub api_keys: ApiKeys,
    /// How long to wait for replicas.
    pub patience: Patience,
    /// How long requests in flight may take to finish at shutdown.
    pub drain: Duration,
}

/// Where a model's tokenizer and shape come from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A checkpoint folder, Mistral's layout or Hugging Face's.
    Folder(PathBuf),
    /// A shape whose weights are made up: text is its bytes, since there is no tokenizer.
    Shape(Box<ModelSpec>),
}

/// How long to wait for replicas.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one to be ready for a new request.
    pub start: Duration,
    /// For one to take over a request whose replica was lost: longer than a lost replica's lease.
    pub failover: Duration,
    /// For one to say that it has accepted a request.
    pub accept: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { start: Duration::from_secs(5), failover: Duration::from_secs(60), accept: Duration::from_secs(30) }
    }
}

impl RouterConfig {
    /// The defaults, on free ports of the loopback interface.
    pub fn new(model_name: impl Into<String>, model: ModelSource) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            grpc: loopback,
            http: loopback,
            front_tls: None,
            tls: None,
            model_name: model_name.into(),
            model,
            max_context: None,
            limits: Limits::default(),
            max_connections: 8192,
            max_requests: 4096,
            max_held_bytes: 1 << 30,
            max_decoding_bytes: 1 << 30,
            image_workers: std::thread::available_parallelism().map_or(1, usize::from),
            fetch: FetchPolicy::default(),
            api_keys: ApiKeys::default(),
            patience: Patience::default(),
            drain: Duration::from_secs(4),
        }
    }

    /// Divides so many bytes between what requests hold and what decoding takes, in equal shares: a large picture takes
    /// many times as much while it is decoded as it holds before and after.
    pub fn with_image_memory(self, bytes: u64) -> Self {
        let half = usize::try_from(bytes / 2).unwrap_or(usize::MAX);
        Self { max_held_bytes: half, max_decoding_bytes: half, ..self }
    }
}
