//! A router in front of fakes, and ways to talk to it.

use std::time::Duration;

use tessera_proto::v1::{self, inference_client::InferenceClient};
use tessera_registry::{Kept, MemoryStore, Registry, ReplicaRecord};
use tessera_router::{ModelSource, Patience, RouterConfig, RouterHandle};
use tessera_types::{ModelSpec, VisionSpec};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::fake::{Fake, Script};

/// A router in front of fakes.
pub(crate) struct House {
    pub(crate) grpc: String,
    pub(crate) http: String,
    pub(crate) fakes: Vec<Fake>,
    pub(crate) registry: Registry,
    shutdown: CancellationToken,
    pub(crate) lease: Kept,
    router: RouterHandle,
}

/// A small shape whose text is its bytes: token 1000 + b is the byte b.
pub(crate) fn shape() -> ModelSpec {
    let mut spec = ModelSpec::bench_1b();
    spec.decoder.vocab_size = 4096;
    spec.max_context = 4096;
    spec.vision = Some(VisionSpec { image_size: 1024, ..ModelSpec::pixtral_12b().vision.unwrap() });
    spec
}

pub(crate) fn config() -> RouterConfig {
    let mut config = RouterConfig::new("bytes", ModelSource::Shape(Box::new(shape())));
    config.patience =
        Patience { start: Duration::from_millis(1500), failover: Duration::from_secs(5), accept: Duration::from_secs(2) };
    config.drain = Duration::from_millis(1500);
    config
}

impl House {
    /// One fake with a script, the usual configuration.
    pub(crate) async fn of(script: Script) -> Self {
        Self::with(config(), vec![script]).await
    }

    pub(crate) async fn with(config: RouterConfig, scripts: Vec<Script>) -> Self {
        tessera_service::metrics::install().unwrap();
        let registry = Registry::new(MemoryStore::new());
        let lease = registry.lease(Duration::from_secs(60)).await.unwrap();
        let mut fakes = Vec::new();
        for (at, script) in scripts.into_iter().enumerate() {
            let fake = Fake::start(script).await;
            let address = format!("http://{}", fake.address);
            let record = ReplicaRecord { id: format!("replica-{at}"), address, ready: true, ..Default::default() };
            registry.put_replica(lease.id(), &record).await.unwrap();
            fakes.push(fake);
        }
        let shutdown = CancellationToken::new();
        let router = tessera_router::run(config, registry.clone(), shutdown.clone()).await.unwrap();
        let (grpc, http) = (format!("http://{}", router.grpc), format!("http://{}", router.http));
        let house = Self { grpc, http, fakes, registry, shutdown, lease, router };
        house.settle().await;
        house
    }

    /// Waits until the router has heard of every fake that is ready.
    async fn settle(&self) {
        let ready = self.fakes.iter().filter(|fake| fake.script.lock().is_usual()).count();
        eventually("the router knows its replicas", || self.ready() == ready).await;
    }

    /// Waits until `/health` answers with a status and a text.
    pub(crate) async fn until_healthy(&self, status: u16, text: &str) {
        let mut last = (0, String::new());
        for _ in 0..400 {
            last = self.get("/health").await;
            if last.0 == status && last.1.contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {status} with `{text}`, at last {last:?}");
    }

    /// Has the registry say that a replica drains.
    pub(crate) async fn drain(&self, at: usize) {
        let (id, address) = (format!("replica-{at}"), format!("http://{}", self.fakes[at].address));
        let record = ReplicaRecord { id, address, draining: true, ..Default::default() };
        self.registry.put_replica(self.lease.id(), &record).await.unwrap();
    }

    /// Asks the router to end.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Replicas that the router takes to be ready.
    pub(crate) fn ready(&self) -> usize {
        self.router.ready_replicas()
    }

    pub(crate) fn seen(&self) -> &crate::fake::Seen {
        &self.fakes[0].seen
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.grpc.clone()).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> InferenceClient<Channel> {
        InferenceClient::connect(self.grpc.clone()).await.unwrap().max_decoding_message_size(64 << 20)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("{}{path}", self.http)).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let client = reqwest::Client::new();
        client.post(format!("{}{path}", self.http)).header("content-type", "application/json").body(body).send().await.unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Waits until `done`, and says what it waited for if that never comes.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..400 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

pub(crate) fn text_part(text: &str) -> v1::Part {
    v1::Part { part: Some(v1::part::Part::Text(text.into())) }
}

pub(crate) fn image_part(source: v1::image::Source) -> v1::Part {
    v1::Part { part: Some(v1::part::Part::Image(v1::Image { source: Some(source), mime: String::new() })) }
}

pub(crate) fn chat(parts: Vec<v1::Part>) -> v1::GenerateRequest {
    let messages = vec![v1::Message { role: "user".into(), parts }];
    v1::GenerateRequest { input: Some(v1::generate_request::Input::Messages(v1::Messages { messages })), ..Default::default() }
}

/// A question with sampling parameters.
pub(crate) fn ask(sampling: v1::Sampling) -> v1::GenerateRequest {
    v1::GenerateRequest { sampling: Some(sampling), ..chat(vec![text_part("Say it.")]) }
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(width, height).write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}
