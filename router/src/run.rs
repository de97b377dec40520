//! Starting a router, and ending it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tessera_registry::Registry;
use tessera_service::{Acceptor, Bound, Phase, ReflectionError, ServeError, Tls, TlsError, bind, routes, serve, serve_http};
use tokio::{
    task::{JoinError, JoinHandle},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{RouterConfig, grpc, http, model::ModelError, replicas, router::Router};

/// How long what is cut off at the end of the drain has to say so.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Why a router does not run.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The tokenizer or the model's configuration cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Certificates cannot be used.
    #[error("no TLS: {0}")]
    Tls(#[from] TlsError),
    /// An address cannot be had, or a server ended by itself.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Reflection cannot be served.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
    /// A part of the router panicked.
    #[error("the router broke: {0}")]
    Broken(#[from] JoinError),
}

/// A router that serves.
#[derive(Debug)]
pub struct RouterHandle {
    /// Where it listens for gRPC.
    pub grpc: SocketAddr,
    /// Where it listens for HTTP.
    pub http: SocketAddr,
    scheme: &'static str,
    router: Inside,
    task: JoinHandle<Result<(), RouterError>>,
}

struct Inside(Arc<Router>);

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Router")
    }
}

impl RouterHandle {
    /// Waits until the router has ended: after its shutdown was asked for, or because it cannot go on.
    pub async fn finished(self) -> Result<(), RouterError> {
        self.task.await?
    }

    /// Where clients call by gRPC.
    pub fn grpc_uri(&self) -> String {
        format!("{}://{}", self.scheme, self.grpc)
    }

    /// Where clients call by HTTP.
    pub fn http_uri(&self) -> String {
        format!("{}://{}", self.scheme, self.http)
    }

    /// Replicas that are ready at the moment.
    pub fn ready_replicas(&self) -> usize {
        self.router.0.replicas().count().0
    }
}

/// Starts a router: takes its addresses, loads its tokenizer, and serves until `shutdown` is cancelled. Requests in
/// flight may then finish, for as long as the configuration's drain.
///
/// # Errors
/// When an address cannot be had, or the model's tokenizer or configuration cannot be read.
pub async fn run(config: RouterConfig, registry: Registry, shutdown: CancellationToken) -> Result<RouterHandle, RouterError> {
    let front = config.front_tls.clone().map(Acceptor::front).transpose()?;
    let scheme = if front.is_some() { "https" } else { "http" };
    let tls = config.tls.clone().map(Tls::read).transpose()?;
    let most = config.max_connections;
    let grpc = bind(config.grpc).await?.secured(front.clone()).at_most(most);
    let http = bind(config.http).await?.secured(front).at_most(most);
    let (grpc_address, http_address) = (grpc.address, http.address);
    let loaded = tokio::task::spawn_blocking(move || Router::new(&config, tls).map(|router| (router, config.drain)));
    let (router, drain) = loaded.await??;
    let router = Arc::new(router);
    let task = tokio::spawn(serve_all(router.clone(), registry, (grpc, http), shutdown, drain));
    tracing::info!(grpc = %grpc_address, http = %http_address, model = router.model_name(), "the router serves");
    Ok(RouterHandle { grpc: grpc_address, http: http_address, scheme, router: Inside(router), task })
}

async fn serve_all(
    router: Arc<Router>,
    registry: Registry,
    (grpc, http): (Bound, Bound),
    shutdown: CancellationToken,
    drain: Duration,
) -> Result<(), RouterError> {
    let routes = routes(grpc::service(router.clone()), router.health())?;
    let follow = replicas::follow(router.replicas().clone(), registry, router.model_name().to_owned());
    let background = shutdown.child_token();
    let _ends_with_this = background.clone().drop_guard();
    tokio::spawn(background.clone().run_until_cancelled_owned(follow));
    tokio::spawn(background.run_until_cancelled_owned(router.clone().follow_replicas()));
    let draining = async {
        shutdown.cancelled().await;
        router.health().enter(Phase::Draining);
        sleep(drain).await;
        router.close();
        sleep(2 * LAST_WORDS).await;
    };
    let http = serve_http(http, http::routes(router.clone()), shutdown.clone(), drain + LAST_WORDS);
    let http = async {
        http.await;
        Ok::<_, ServeError>(())
    };
    let grpc = serve(grpc, routes, shutdown.clone(), drain + LAST_WORDS);
    tokio::select! {
        ended = async { tokio::try_join!(grpc, http) } => Ok(ended.map(drop)?),
        () = draining => Ok(()),
    }
}
