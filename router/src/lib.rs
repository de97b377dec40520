//! The front door: gRPC and OpenAI-compatible HTTP on one inner request type.
//!
//! A request is read by either front, resolved against the limits, its images are fetched and
//! prepared, its prompt is laid out; a replica is picked and the session streams what it makes, as text. The client's
//! connection polls the session, and the session polls the replica: whoever goes away, the rest ends with it.

mod admission;
mod auth;
mod config;
mod error;
mod event;
mod grpc;
mod http;
mod layout;
mod limits;
mod media;
mod metrics;
mod model;
mod pipeline;
mod replicas;
mod request;
mod resolve;
mod router;
mod run;
mod session;
mod stops;
mod text;
mod trace;
mod watched;
mod workers;

pub use auth::ApiKeys;
pub use config::{ModelSource, Patience, RouterConfig};
pub use limits::Limits;
pub use media::{FetchPolicy, Hosts, Network};
pub use model::ModelError;
pub use run::{RouterError, RouterHandle, run};

use error::{ErrorKind, RequestError};
