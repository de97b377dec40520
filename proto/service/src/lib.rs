//! What makes a process a good citizen: telemetry, metrics, health, reflection, serving, shutdown.

mod channel;
mod config;
mod connection;
mod health;
pub mod metrics;
mod reflection;
mod server;
mod shutdown;
mod telemetry;
pub mod trace_context;

pub use channel::{PeerError, peer};
pub use config::{LogFormat, TelemetryConfig};
pub use health::{Health, HealthService, Phase};
pub use reflection::{ReflectionError, reflection};
pub use server::{Bound, ServeError, bind, finish, serve};
pub use shutdown::on_signal;
pub use telemetry::{Telemetry, TelemetryError};
