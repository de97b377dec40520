//! Starts workers and says to them what a coordinator says.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tessera_proto::internal::{
    self as wire, Collective, GetStatusRequest, GetStatusResponse, LoadRequest, Loaded, ModelSource, ReleaseRequest, StepFailure,
    StepPlan, StepResult, collective::Transport, load_event::Event, model_source::Source, shard_worker_client::ShardWorkerClient,
};
use tessera_registry::Registry;
use tessera_shard_worker::{Config, DeviceConfig, RunError, ShardWorker};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const KV_MEMORY: u64 = 8 << 20;

pub(crate) fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-random").join(path)
}

/// A worker that runs, and a coordinator's connection to it.
pub(crate) struct Worker {
    pub(crate) address: String,
    pub(crate) client: ShardWorkerClient<Channel>,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: JoinHandle<Result<(), RunError>>,
}

impl Worker {
    pub(crate) async fn start(id: &str) -> Self {
        Self::start_in(id, None).await
    }

    pub(crate) async fn start_in(id: &str, registry: Option<Registry>) -> Self {
        Self::start_on(DeviceConfig::Cpu { threads: 1, kv_memory: KV_MEMORY }, id, registry).await
    }

    pub(crate) async fn start_on(device: DeviceConfig, id: &str, registry: Option<Registry>) -> Self {
        let config = Config {
            id: id.into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            host: "here".into(),
            device,
            tls: None,
            lease: Duration::from_secs(2),
            drain: Duration::from_secs(1),
            grace: Duration::from_secs(1),
        };
        let worker = ShardWorker::bind(config).await.unwrap();
        let (address, stop) = (format!("http://{}", worker.address()), CancellationToken::new());
        let ended = tokio::spawn(worker.run(registry, stop.clone()));
        let client = ShardWorkerClient::connect(address.clone()).await.unwrap();
        Self { address, client, stop, ended }
    }

    pub(crate) async fn load(&self, request: LoadRequest) -> Result<Loaded, Status> {
        self.load_events(request).await.map(|(_, loaded)| loaded)
    }

    /// Progress, `(bytes done, bytes in all)`, and the result.
    pub(crate) async fn load_events(&self, request: LoadRequest) -> Result<(Vec<(u64, u64)>, Loaded), Status> {
        let mut client = self.client.clone();
        let mut progress = Vec::new();
        let load = async {
            let mut events = client.load(request).await?.into_inner();
            while let Some(message) = events.message().await? {
                match message.event.unwrap() {
                    Event::Progress(done) => progress.push((done.bytes_done, done.bytes_total)),
                    Event::Loaded(loaded) => return Ok::<_, Status>(loaded),
                }
            }
            panic!("loading ended without a result")
        };
        let loaded = timeout(LONG, load).await.unwrap()?;
        Ok((progress, loaded))
    }

    pub(crate) async fn run(&self) -> Run {
        let (plans, received) = mpsc::channel(16);
        let results = self.client.clone().run(ReceiverStream::new(received)).await.unwrap().into_inner();
        Run { plans, results }
    }

    pub(crate) async fn release(&self, epoch: u64) {
        self.client.clone().release(ReleaseRequest { epoch }).await.unwrap();
    }

    pub(crate) async fn status(&self) -> GetStatusResponse {
        self.client.clone().get_status(GetStatusRequest {}).await.unwrap().into_inner()
    }

    /// Waits until the worker is in no group.
    pub(crate) async fn until_free(&self) {
        until("the worker leaves its group", async || self.status().await.rank.is_none()).await;
    }
}

/// A stream of plans and the results that come back.
pub(crate) struct Run {
    pub(crate) plans: mpsc::Sender<StepPlan>,
    results: Streaming<StepResult>,
}

impl Run {
    pub(crate) async fn send(&self, plan: StepPlan) {
        self.plans.send(plan).await.unwrap();
    }

    pub(crate) async fn result(&mut self) -> Result<StepResult, Status> {
        let message = timeout(LONG, self.results.message()).await.expect("no result in time")?;
        message.ok_or_else(|| Status::cancelled("the run has ended"))
    }

    /// The one token that the step sampled.
    pub(crate) async fn token(&mut self) -> u32 {
        let result = self.result().await.unwrap();
        assert_eq!(result.failure, None);
        result.output.expect("an output").sampled[0].token
    }

    pub(crate) async fn failure(&mut self) -> StepFailure {
        self.result().await.unwrap().failure.expect("a failure")
    }
}

/// Asks again and again until it is so.
pub(crate) async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let asking = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, asking).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

/// Requests of one group to form.
pub(crate) struct Group {
    name: String,
    tp: u32,
    addresses: Vec<String>,
}

impl Group {
    pub(crate) fn shm(tp: u32) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("worker-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { name, tp, addresses: Vec::new() }
    }

    pub(crate) fn tcp(tp: u32) -> Self {
        let listeners: Vec<_> = (0..tp).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        Self { addresses, ..Self::shm(tp) }
    }

    pub(crate) fn request(&self, epoch: u64, rank: u32) -> LoadRequest {
        let folder = fixture("mistral").display().to_string();
        let transport = if self.addresses.is_empty() { Transport::Shm } else { Transport::Tcp };
        LoadRequest {
            epoch,
            rank,
            tp: self.tp,
            model: Some(ModelSource { source: Some(Source::Folder(folder)) }),
            dtype: "f32".into(),
            vision_parallel: "tensor".into(),
            kv_blocks: 0,
            max_context: 0,
            collective: Some(Collective {
                transport: transport.into(),
                group: self.name.clone(),
                addresses: self.addresses.clone(),
                deadline_ms: LONG.as_millis() as u64,
                ..Default::default()
            }),
            quantization: String::new(),
            kv_cache_dtype: String::new(),
        }
    }

    /// Loads on two workers at once.
    pub(crate) async fn load(&self, workers: [&Worker; 2], epoch: u64) -> [Loaded; 2] {
        let [a, b] = workers;
        let (a, b) = tokio::join!(a.load(self.request(epoch, 0)), b.load(self.request(epoch, 1)));
        [a.unwrap(), b.unwrap()]
    }
}

/// A model without weights on disk.
pub(crate) fn dummy(spec: &str) -> Option<ModelSource> {
    Some(ModelSource { source: Some(Source::Dummy(wire::DummyModel { model_spec: spec.into(), seed: 1 })) })
}
