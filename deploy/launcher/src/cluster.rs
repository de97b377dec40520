//! A whole cluster in one process: its registry in memory, its roles on loopback addresses, speaking gRPC as anywhere.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use tessera_coordinator::Coordinator;
use tessera_registry::{MemoryStore, Registry};
use tessera_router::RouterHandle;
use tessera_shard_worker::ShardWorker;
use tessera_types::VisionParallel;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        ComputeArgs, DtypeArg, FrontArgs, FrontTlsArgs, KvCacheDtypeArg, LoadFormat, ModelArgs, QuantizationArg, RegistryArgs,
        ReplicaArgs, TransportArg, UpArgs,
    },
    device::DeviceArg,
    progress,
    settings::{self, Model},
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// A cluster that does not stop by itself is left behind after this.
const STOP: Duration = Duration::from_secs(5);
/// How long a role that is gone may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running cluster.
pub(crate) struct LocalCluster {
    router: RouterHandle,
    roles: JoinSet<Result<()>>,
    stop: CancellationToken,
}

impl LocalCluster {
    /// Starts every role and waits until the replicas are ready.
    pub(crate) async fn start(args: &UpArgs, stop: CancellationToken) -> Result<Self> {
        settings::check(&args.compute, &args.replica)?;
        let model = Model::new(&args.model)?;
        settings::check_fp8(&args.replica, Some(args.compute.device))?;
        let router = settings::router(&args.front, &model, args.replica.max_context)?;
        let shared = settings::registry(&args.registry)?;
        // Others may bring what is missing here, and replicas that choose workers at once may be in each other's way.
        let mend = shared.is_some() || args.replicas > 1;
        let registry = shared.unwrap_or_else(|| Registry::new(MemoryStore::new()));
        // First of all, since it is the router that is told ports and files: what is wrong with them is found before
        // anything is loaded.
        let router = tessera_router::run(router, registry.clone(), stop.clone()).await?;
        let mut roles = JoinSet::new();
        let ranks = args.replica.tp * args.replicas;
        for nth in 0..ranks {
            let config = settings::shard_worker(&args.compute, LOOPBACK, (nth, ranks), args.registry.lease())?;
            let worker = ShardWorker::bind(config).await?;
            let (registry, stop) = (registry.clone(), stop.clone());
            roles.spawn(async move { worker.run(Some(registry), stop).await.context("a shard worker ended") });
        }
        let mut groups = Vec::new();
        for _ in 0..args.replicas {
            let mut config = settings::coordinator(&args.replica, &model, LOOPBACK);
            config.timeouts.lease = args.registry.lease();
            let coordinator = Coordinator::bind(config, registry.clone()).await?;
            groups.push(coordinator.group());
            let stop = stop.clone();
            roles.spawn(async move { coordinator.run(stop).await.context("a coordinator ended") });
        }
        let ready = async {
            for group in groups {
                progress::until_ready(group, mend).await?;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            // What ended tells more than that its group is gone.
            biased;
            Some(ended) = roles.join_next() => {
                ended??;
                anyhow::bail!("stopped before it was ready");
            }
            ready = ready => if let Err(vague) = ready {
                // The group tells that its role is gone, and the role, a moment later, why.
                if let Ok(Some(ended)) = tokio::time::timeout(LAST_WORDS, roles.join_next()).await {
                    ended??;
                }
                return Err(vague);
            },
        }
        let cluster = Self { router, roles, stop };
        cluster.replicas_known(args.replicas.into()).await?;
        Ok(cluster)
    }

    /// The learned model with everything else as usual.
    pub(crate) async fn for_demo(model: &Path, tp: u16) -> Result<Self> {
        let args = UpArgs {
            model: ModelArgs { model: model.display().to_string(), load_format: LoadFormat::Auto, served_model_name: None },
            replica: ReplicaArgs {
                tp,
                elastic: false,
                transport: TransportArg::Auto,
                dtype: DtypeArg::Bf16,
                vision_parallel: VisionParallel::Auto,
                quantization: QuantizationArg::None,
                kv_cache_dtype: KvCacheDtypeArg::Auto,
                max_context: None,
                max_sequences: 16,
                step_tokens: None,
                queue: 16,
            },
            replicas: 1,
            compute: ComputeArgs {
                device: DeviceArg::Cpu,
                threads: Some(1),
                kv_memory: Some(64 << 20),
                cuda_kernels: None,
                no_cuda_graphs: false,
                no_cuda_overlap: false,
                no_peer_sums: false,
            },
            registry: RegistryArgs::default(),
            front: FrontArgs {
                grpc: LOOPBACK,
                http: LOOPBACK,
                max_connections: 64,
                image_memory: None,
                allow_image_urls: false,
                api_key_file: None,
                tls: FrontTlsArgs::default(),
            },
        };
        Self::start(&args, CancellationToken::new()).await
    }

    /// Waits until the router knows that so many replicas are ready.
    async fn replicas_known(&self, count: usize) -> Result<()> {
        let known = async {
            while self.router.ready_replicas() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), known).await.context("the router does not find the replicas")
    }

    /// The URI of the gRPC API.
    pub(crate) fn grpc_address(&self) -> String {
        self.router.grpc_uri()
    }

    /// The URI of the HTTP API.
    pub(crate) fn http_address(&self) -> String {
        self.router.http_uri()
    }

    /// Stops every role.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.finished().await
    }

    /// Waits until every role has ended; the first failure ends the others.
    pub(crate) async fn finished(self) -> Result<()> {
        let Self { router, mut roles, stop } = self;
        roles.spawn(async move { router.finished().await.context("the router ended") });
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP).await;
        };
        let ended = async {
            let mut outcome = Ok(());
            while let Some(ended) = roles.join_next().await {
                stop.cancel();
                outcome = outcome.and(ended?);
            }
            outcome
        };
        tokio::select! {
            outcome = ended => outcome,
            () = late => anyhow::bail!("roles did not stop within {STOP:?}"),
        }
    }
}
