//! A shard worker as a process sees it: bind, then run.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tessera_proto::{MAX_MESSAGE_BYTES, internal::shard_worker_server::ShardWorkerServer};
use tessera_registry::{Kept, Registry, RegistryError, WorkerRecord, WorkerState};
use tessera_service::{Bound, Health, Phase, ReflectionError, ServeError, bind, reflection, serve};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tracing::{info, warn};

use crate::{Config, fence::Fence, rank, service::Service};

const SERVICE: &str = "tessera.internal.v1.ShardWorker";
/// Between attempts to register.
const RETRY: Duration = Duration::from_millis(500);

/// Why a shard worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
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
    config: Config,
    bound: Bound,
}

impl ShardWorker {
    /// Takes the address.
    pub async fn bind(config: Config) -> Result<Self, RunError> {
        let bound = bind(config.listen).await?;
        Ok(Self { config, bound })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// What others are told of it.
    pub fn record(&self) -> WorkerRecord {
        let address = self.config.advertise.clone().unwrap_or_else(|| format!("http://{}", self.bound.address));
        WorkerRecord {
            id: self.config.id.clone(),
            address,
            device: "cpu".into(),
            memory_bytes: self.config.kv_memory,
            host: self.config.host.clone(),
            fingerprint: None,
            state: WorkerState::Ready,
        }
    }

    /// Serves until `stop`; registered meanwhile where there is a registry, else its address is given to the coordinator by hand.
    pub async fn run(self, registry: Option<Registry>, stop: CancellationToken) -> Result<(), RunError> {
        let record = self.record();
        let Self { config, bound } = self;
        let health = Health::new(Duration::from_secs(120));
        let fence = Arc::new(Fence::default());
        let commands = rank::start(config.threads, config.kv_memory, fence.clone())?;
        let (fingerprint, loaded) = watch::channel(None);
        let service = Service::new(config.id.clone(), commands, fence.clone(), health.clone(), fingerprint);
        let routes = routes(service, &health)?;
        health.enter(Phase::Serving);
        let announced = async {
            if let Some(registry) = registry {
                announce(registry, record, config.lease, loaded, stop.clone()).await;
            }
        };
        let ended = async {
            let ended = serve(bound, routes, stop.clone(), config.grace).await;
            // A rank that waits for others would keep its thread forever busy.
            fence.release(fence.newest());
            stop.cancel();
            ended
        };
        let (served, ()) = tokio::join!(ended, announced);
        Ok(served?)
    }
}

fn routes(service: Service, health: &Health) -> Result<Routes, ReflectionError> {
    let service = ShardWorkerServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut routes = RoutesBuilder::default();
    routes.add_service(service).add_service(health.service(&[SERVICE]));
    reflection(&mut routes, &[SERVICE])?;
    Ok(routes.routes())
}

/// Keeps the worker's record in the registry, renewed when what it holds changes or the lease was lost.
async fn announce(
    registry: Registry,
    mut record: WorkerRecord,
    ttl: Duration,
    mut loaded: watch::Receiver<Option<String>>,
    stop: CancellationToken,
) {
    loop {
        let registered = async {
            let lease = registry.lease(ttl).await?;
            registry.put_worker(lease.id(), &record).await?;
            Ok::<Kept, RegistryError>(lease)
        };
        let lease = match registered.await {
            Ok(lease) => lease,
            Err(error) => {
                warn!(%error, "cannot register");
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => continue,
                    () = stop.cancelled() => return,
                }
            }
        };
        info!(id = record.id, address = record.address, "registered");
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    // The lease ends by itself where the registry is away.
                    let _ = lease.revoke().await;
                    return;
                }
                () = lease.lost() => break,
                changed = loaded.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    record.fingerprint = loaded.borrow_and_update().clone();
                    if let Err(error) = registry.put_worker(lease.id(), &record).await {
                        warn!(%error, "cannot tell what is held");
                    }
                }
            }
        }
    }
}
