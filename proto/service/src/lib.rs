//! What makes a process a good citizen: telemetry, metrics, health, reflection, TLS, serving, shutdown.

mod channel;
mod complaint;
mod config;
mod connection;
mod health;
mod http_server;
pub mod metrics;
mod places;
mod reflection;
mod seldom;
mod server;
mod shutdown;
mod status;
mod telemetry;
mod tls;
pub mod trace_context;

pub use channel::{PeerError, peer, reason};
pub use complaint::Complaint;
pub use config::{LogFormat, TelemetryConfig};
pub use health::{Health, HealthService, Phase};
pub use http_server::serve_http;
pub use reflection::{ReflectionError, reflection};
pub use server::{Bound, ServeError, bind, finish, routes, serve};
pub use shutdown::on_signal;
pub use status::{scrape, serve_status};
pub use telemetry::{Telemetry, TelemetryError};
pub use tls::{Acceptor, CertFiles, Tls, TlsError, TlsFiles};
