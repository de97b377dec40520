//! A shard worker as a process sees it: bind, then run.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tessera_proto::{MAX_MESSAGE_BYTES, internal::shard_worker_server::ShardWorkerServer};
use tessera_registry::{Registry, WorkerRecord, WorkerState};
use tessera_service::{Bound, Health, Phase, ReflectionError, ServeError, Tls, TlsError, bind, routes, serve};
use tessera_types::Epoch;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;

use crate::{
    Config,
    announce::{Life, announce},
    fence::Fence,
    ids::Ids,
    rank::{self, Inventory},
    service::Service,
    work::Work,
};

/// A worker whose plans wait for so long without a step done is not healthy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a shard worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The certificates cannot be used.
    #[error("no TLS: {0}")]
    Tls(#[from] TlsError),
    /// The address cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// No thread for the device.
    #[error("no thread for the device: {0}")]
    Thread(#[from] std::io::Error),
    /// Reflection cannot be served.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
}

/// A shard worker that has its address and does not run yet.
pub struct ShardWorker {
    instance: u64,
    config: Config,
    bound: Bound,
    health: Health,
}

impl ShardWorker {
    /// Takes the address.
    pub async fn bind(config: Config) -> Result<Self, RunError> {
        let tls = config.tls.clone().map(Tls::read).transpose()?;
        let bound = bind(config.listen).await?.secured(tls.as_ref().map(Tls::acceptor));
        Ok(Self { instance: rand::random(), config, bound, health: Health::new(PATIENCE) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// Its health.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// What others are told of it.
    pub fn record(&self) -> WorkerRecord {
        let address = self.bound.uri(self.config.advertise.as_deref());
        WorkerRecord {
            id: self.config.id.clone(),
            address,
            device: self.config.device.name(),
            memory_bytes: self.config.device.memory(),
            host: self.config.host.clone(),
            fingerprint: None,
            state: WorkerState::Ready,
            instance: self.instance,
        }
    }

    /// Serves until `stop`, then lets calls in progress end within the grace; registered meanwhile where there is a
    /// registry, else its address is given to the coordinator by hand.
    pub async fn run(self, registry: Option<Registry>, stop: CancellationToken) -> Result<(), RunError> {
        let record = self.record();
        let Self { config, bound, health, .. } = self;
        let fence = Arc::new(Fence::default());
        let (work, inventory) = (Work::new(health.clone()), watch::Sender::new(Inventory::default()));
        let seen = inventory.subscribe();
        let id: Arc<str> = config.id.into();
        let commands = rank::start(id.clone(), config.device.clone(), fence.clone(), work.clone(), inventory)?;
        let (left, gone) = watch::channel(Epoch::default());
        // Stopped from outside, asked to leave, or by a server that failed.
        let (draining, leave, ended) = (stop.child_token(), CancellationToken::new(), CancellationToken::new());
        let (device, fenced, leaving) = (config.device.name().into(), fence.clone(), draining.clone());
        let (inventory, ids) = (seen.clone(), Ids::default());
        let service = Service { id, device, commands, fence: fenced, inventory, ids, work, left, draining: leaving };
        let routes = routes(server(service), &health)?;
        health.enter(Phase::Serving);
        let life = Life { inventory: seen, left: gone, draining: draining.clone(), ended: ended.clone() };
        let serving = async {
            let served = serve(bound, routes, leave.clone(), config.grace).await;
            // A rank that waits for others would keep them, and its thread, waiting.
            fence.leave(fence.now().0);
            draining.cancel();
            ended.cancel();
            served
        };
        let leaving = async {
            draining.cancelled().await;
            health.enter(Phase::Draining);
            let patience = async {
                stop.cancelled().await;
                sleep(config.drain).await;
            };
            tokio::select! { () = fence.free() => {}, () = patience => {} }
            leave.cancel();
        };
        let announced = async {
            if let Some(registry) = registry {
                announce(registry, record, config.lease, life).await;
            }
        };
        let (served, (), ()) = tokio::join!(serving, leaving, announced);
        Ok(served?)
    }
}

fn server(service: Service) -> ShardWorkerServer<Service> {
    ShardWorkerServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
}
