//! A coordinator as a process sees it: bind, then run.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tessera_engine::ConfigError;
use tessera_proto::{MAX_MESSAGE_BYTES, internal::coordinator_server::CoordinatorServer};
use tessera_registry::Registry;
use tessera_service::{Bound, Health, ReflectionError, ServeError, Tls, TlsError, bind, routes, serve};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;

use crate::{
    config::Config,
    driver::{self, Driver, Wires},
    group::{FormError, Former},
    replica::Announcer,
    service::{COMMANDS, Service},
    state::{GroupState, ReplicaState},
};

/// Calls in progress may end within this once the last request is done.
const GRACE: Duration = Duration::from_secs(1);

/// Why a coordinator does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A limit that would let nothing through.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates cannot be used.
    #[error("no TLS: {0}")]
    Tls(#[from] TlsError),
    /// The address cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The model cannot be loaded by any workers.
    #[error("the model cannot be loaded: {0}")]
    Model(FormError),
    /// Reflection cannot be served.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
}

impl From<driver::RunError> for RunError {
    fn from(error: driver::RunError) -> Self {
        match error {
            driver::RunError::Config(error) => Self::Config(error),
            driver::RunError::Form(error) => Self::Model(error),
        }
    }
}

/// A coordinator that has its address and does not run yet.
pub struct Coordinator {
    config: Arc<Config>,
    registry: Registry,
    bound: Bound,
    tls: Option<Tls>,
    health: Health,
    group: watch::Sender<GroupState>,
    state: watch::Sender<ReplicaState>,
}

/// Binds and runs.
pub async fn run(config: Config, registry: Registry, stop: CancellationToken) -> Result<(), RunError> {
    Coordinator::bind(config, registry).await?.run(stop).await
}

impl Coordinator {
    /// Takes the address.
    pub async fn bind(config: Config, registry: Registry) -> Result<Self, RunError> {
        let tls = config.tls.clone().map(Tls::read).transpose()?;
        let bound = bind(config.listen).await?.secured(tls.as_ref().map(Tls::acceptor));
        let health = Health::new(config.timeouts.progress);
        let waiting = GroupState::Waiting { free: 0, needed: config.tp.into() };
        let state = watch::Sender::new(ReplicaState::default());
        Ok(Self { config: Arc::new(config), registry, bound, tls, health, group: watch::Sender::new(waiting), state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// What others call it by.
    pub fn uri(&self) -> String {
        self.bound.uri(self.config.advertise.as_deref())
    }

    /// Where its group is in its life.
    pub fn group(&self) -> watch::Receiver<GroupState> {
        self.group.subscribe()
    }

    /// Its load and limits.
    pub fn state(&self) -> watch::Receiver<ReplicaState> {
        self.state.subscribe()
    }

    /// Its health.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Serves until `stop`, then lets running requests end, no longer than the drain bound.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let address = self.uri();
        let Self { config, registry, bound, tls, health, group, state } = self;
        let (commands, received) = mpsc::channel(COMMANDS);
        let service = Service::new(&config, commands, state.subscribe());
        let routes = routes(server(service), &health)?;
        let announcer = Announcer::new(&config, registry.clone(), address);
        let former = Former::new(config.clone(), registry.clone(), tls, group.clone());
        let announced = state.subscribe();
        // The server outlives the driver, so that what it says last is heard; and takes it down when it fails.
        let (stop, close) = (stop.child_token(), CancellationToken::new());
        let siblings = former.siblings();
        let wires = Wires { commands: received, state, group, health, registry, siblings, stop: stop.clone() };
        let driver = Driver::new(config, wires)?;
        let driving = async {
            let ended = driver.run(former).await;
            close.cancel();
            ended
        };
        let serving = async {
            let ended = serve(bound, routes, close.clone(), GRACE).await;
            stop.cancel();
            ended
        };
        let (driven, served, ()) = tokio::join!(driving, serving, announcer.run(announced, close.clone()));
        driven?;
        Ok(served?)
    }
}

fn server(service: Service) -> CoordinatorServer<Service> {
    CoordinatorServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
}
