//! What both fronts stand on: a request goes in, a session comes out.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tessera_prompt::Tokenizer;
use tessera_service::{Health, Phase, Tls};
use tessera_types::{ModelSpec, TokenId};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiKeys, Limits, Patience, RequestError, RouterConfig,
    admission::{Admission, Permit},
    event::Accepted,
    metrics::{Front, Metrics, Tally},
    model::{Model, ModelError},
    pipeline::{Count, Pipeline, Prepared},
    replicas::Replicas,
    request::{Input, Request},
    session::{COME_BACK, Session},
    workers::Workers,
};

/// A process that waits on others is not unhealthy for it: only phases count.
const HEALTH_PATIENCE: Duration = Duration::from_secs(3600);
/// Between two looks for a replica.
const PAUSE: Duration = Duration::from_millis(200);

/// A request that was taken on.
pub(crate) struct Entry {
    /// Its share of what the router takes on.
    pub(crate) permit: Permit,
    tally: Tally,
}

impl Entry {
    /// Counts the request as refused.
    pub(crate) fn refused(mut self, error: RequestError) -> RequestError {
        self.tally.failed(error.kind);
        error
    }
}

/// The router behind its fronts.
pub(crate) struct Router {
    model: Arc<Model>,
    pipeline: Pipeline,
    replicas: Arc<Replicas>,
    admission: Admission,
    workers: Workers,
    metrics: Metrics,
    health: Health,
    keys: ApiKeys,
    limits: Limits,
    patience: Patience,
    max_context: Option<usize>,
    since: u64,
    closing: CancellationToken,
}

impl Router {
    /// Loads the tokenizer; no replica is known yet. With `tls`, replicas are called so.
    pub(crate) fn new(config: &RouterConfig, tls: Option<Tls>) -> Result<Self, ModelError> {
        let model = Arc::new(Model::load(config)?);
        let metrics = Metrics::new();
        let workers = Workers::new(config.image_workers);
        Ok(Self {
            pipeline: Pipeline::new(model.clone(), config, workers.clone(), metrics.clone()),
            replicas: Replicas::new(model.clone(), tls),
            model,
            admission: Admission::new(config.max_requests, config.max_held_bytes),
            workers,
            metrics,
            health: Health::new(HEALTH_PATIENCE),
            keys: config.api_keys.clone(),
            limits: config.limits.clone(),
            patience: config.patience,
            max_context: config.max_context,
            since: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            closing: CancellationToken::new(),
        })
    }

    /// Takes a request on before anything of it is known, or refuses it.
    pub(crate) fn enter(&self, front: Front, arrived: Instant) -> Result<Entry, RequestError> {
        let mut tally = self.metrics.begin(front, arrived);
        match self.admission.enter() {
            Ok(permit) => Ok(Entry { permit, tally }),
            Err(error) => {
                tally.failed(error.kind);
                Err(error)
            }
        }
    }

    /// Takes a body on before it is known what it asks for, or refuses it.
    pub(crate) fn receive(&self, front: Front) -> Result<Permit, RequestError> {
        self.admission.enter().inspect_err(|error| self.metrics.begin(front, Instant::now()).failed(error.kind))
    }

    /// Runs a request: every check, its images, its place on a replica.
    pub(crate) async fn generate(&self, entry: Entry, request: Request) -> Result<(Accepted, Session), RequestError> {
        let Entry { permit, mut tally } = entry;
        match self.prepare(permit, request).await {
            Ok(prepared) => Session::start(prepared, self.replicas.clone(), self.patience, tally, self.closing.clone()).await,
            Err(error) => {
                tally.failed(error.kind);
                Err(error)
            }
        }
    }

    async fn prepare(&self, permit: Permit, request: Request) -> Result<Prepared, RequestError> {
        let latest = request.arrived + self.limits.max_duration;
        let deadline = request.deadline.map_or(latest, |deadline| deadline.min(latest));
        let prepared = self.pipeline.prepare(request, permit, deadline, self.context_when_ready());
        timeout_at(deadline, prepared).await.map_err(|_| RequestError::deadline("it was being prepared"))?
    }

    /// The context that can be served, once there is a replica to serve it.
    async fn context_when_ready(&self) -> Result<usize, RequestError> {
        let by = Instant::now() + self.patience.start;
        while self.replicas.max_context().is_none() {
            if Instant::now() >= by {
                return Err(RequestError::unavailable("no replica is ready", COME_BACK));
            }
            // One that comes between the look and the wait is seen at the next look.
            self.replicas.wait_for_change(by.min(Instant::now() + PAUSE)).await;
        }
        Ok(self.max_context())
    }

    /// What a request would cost.
    pub(crate) async fn count(&self, model: &str, input: Option<Input>, sizes: Vec<(u32, u32)>) -> Result<Count, RequestError> {
        self.check_model(model)?;
        let permit = self.admission.enter()?;
        let deadline = Instant::now() + self.limits.max_duration;
        let count = self.pipeline.count(input, sizes, &permit, self.max_context());
        timeout_at(deadline, count).await.map_err(|_| RequestError::deadline("it was being counted"))?
    }

    /// Text as tokens, without control tokens.
    pub(crate) async fn tokenize(&self, model: &str, text: String) -> Result<Vec<TokenId>, RequestError> {
        self.check_model(model)?;
        let permit = self.admission.enter()?;
        let deadline = Instant::now() + self.limits.max_duration;
        let tokens = self.pipeline.tokenize(text, &permit);
        timeout_at(deadline, tokens).await.map_err(|_| RequestError::deadline("it was being tokenized"))?
    }

    /// Refuses any name but the served model's; an empty one stands for it.
    pub(crate) fn check_model(&self, asked: &str) -> Result<(), RequestError> {
        self.model.check_name(asked)
    }

    /// The longest context that can be served: what the model can, the operator wants, and a ready replica holds.
    pub(crate) fn max_context(&self) -> usize {
        let bounds = [self.max_context, self.replicas.max_context()];
        bounds.into_iter().flatten().fold(self.model.spec.max_context, usize::min)
    }

    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    pub(crate) fn model_name(&self) -> &str {
        &self.model.name
    }

    pub(crate) fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.model.tokenizer
    }

    pub(crate) fn fetches_urls(&self) -> bool {
        self.pipeline.fetches_urls()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    pub(crate) fn keys(&self) -> &ApiKeys {
        &self.keys
    }

    pub(crate) fn replicas(&self) -> &Arc<Replicas> {
        &self.replicas
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// When it began to serve, in seconds since 1970.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Why it does not serve at the moment, if it does not, in words that anyone may read.
    pub(crate) fn problem(&self) -> Option<String> {
        let (ready, known) = self.replicas.count();
        match self.health.problem()? {
            "starting" if known == 0 => Some("no replica is known".into()),
            "starting" => Some(format!("{ready} of {known} replicas are ready")),
            other => Some(other.into()),
        }
    }

    /// Ends every request in flight with an error that says why.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Keeps health in step with the replicas, for ever.
    pub(crate) async fn follow_replicas(self: Arc<Self>) {
        let mut changes = self.replicas.changes();
        loop {
            let (ready, _) = self.replicas.count();
            self.metrics.replicas(ready);
            self.health.enter(if ready > 0 { Phase::Serving } else { Phase::Starting });
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
