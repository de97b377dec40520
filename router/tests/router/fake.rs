//! A coordinator that says what it is told to, and does to its streams what it is told to.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::Stream;
use parking_lot::Mutex;
use std::pin::Pin;
use tessera_proto::internal::{
    Accepted, DrainRequest, DrainResponse, Finished, GenerateEvent, GenerateRequest, GetInfoRequest, GetInfoResponse,
    PromptLogprobs, StopSequenceRequest, StopSequenceResponse, Timings, Token, TokenLogprob,
    coordinator_server::{Coordinator, CoordinatorServer},
    finished::Reason,
    generate_event::Event,
};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// The end token.
pub(crate) const END: u32 = 2;

/// What a fake does with the calls it gets.
#[derive(Clone)]
pub(crate) struct Script {
    /// What every sequence says, one token a byte; the sequence's index follows when there are several.
    pub(crate) answer: String,
    /// Between two tokens.
    pub(crate) pace: Duration,
    /// Refuses every request with this.
    pub(crate) refuse: Option<Status>,
    /// Breaks a stream after so many tokens in all, with this status; `None` ends it without one.
    pub(crate) break_after: Option<(usize, Option<Status>)>,
    /// Accepts, and never says another word.
    pub(crate) hang: bool,
    /// Says every token twice.
    pub(crate) stutter: bool,
    pub(crate) max_context: u32,
    pub(crate) queued_tokens: u64,
    pub(crate) epoch: u64,
    pub(crate) ready: bool,
    /// The model's name; a fake that has none does not say.
    pub(crate) model: String,
    /// Its shape, as JSON.
    pub(crate) shape: String,
    /// What its weights are known by.
    pub(crate) fingerprint: String,
    /// What they are known by once it accepts a request, where that is something else.
    pub(crate) accepts_with: Option<String>,
    /// How old it says that its group is.
    pub(crate) group_age: Duration,
    /// Refuses to say how it is.
    pub(crate) mute: bool,
    /// How they are quantised.
    pub(crate) quantization: String,
    pub(crate) kv_cache_dtype: String,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            answer: "The quick brown fox jumps over the lazy dog.".into(),
            pace: Duration::ZERO,
            refuse: None,
            break_after: None,
            hang: false,
            stutter: false,
            max_context: 4096,
            queued_tokens: 0,
            epoch: 1,
            ready: true,
            model: String::new(),
            shape: String::new(),
            fingerprint: String::new(),
            accepts_with: None,
            group_age: Duration::ZERO,
            mute: false,
            quantization: String::new(),
            kv_cache_dtype: String::new(),
        }
    }
}

impl Script {
    /// Whether a router sends requests to it as soon as it knows it.
    pub(crate) fn is_usual(&self) -> bool {
        self.ready && self.model.is_empty() && self.shape.is_empty() && self.fingerprint.is_empty()
    }
}

/// What happened to a fake.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) requests: Mutex<Vec<GenerateRequest>>,
    pub(crate) metadata: Mutex<Vec<HashMap<String, String>>>,
    pub(crate) stopped: Mutex<Vec<(String, u32)>>,
    pub(crate) running: AtomicUsize,
}

impl Seen {
    pub(crate) fn calls(&self) -> usize {
        self.requests.lock().len()
    }

    pub(crate) fn last(&self) -> GenerateRequest {
        self.requests.lock().last().cloned().expect("a request came")
    }

    /// Streams that are open.
    pub(crate) fn running(&self) -> usize {
        self.running.load(SeqCst)
    }
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) address: SocketAddr,
    dead: CancellationToken,
}

impl Fake {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Self { script: Arc::new(Mutex::new(script)), seen: Arc::default(), address, dead: CancellationToken::new() };
        let service = CoordinatorServer::new(fake.clone()).max_decoding_message_size(1 << 30);
        let dead = fake.dead.clone();
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::spawn(async move { dead.run_until_cancelled(server).await });
        fake
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock());
    }
}

struct Running(Arc<Seen>);

impl Running {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.running.fetch_add(1, SeqCst);
        Self(seen.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

type Events = mpsc::Sender<Result<GenerateEvent, Status>>;

#[tonic::async_trait]
impl Coordinator for Fake {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<GenerateEvent, Status>> + Send>>;

    async fn generate(&self, call: Request<GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let pairs = call.metadata().iter().filter_map(|pair| match pair {
            tonic::metadata::KeyAndValueRef::Ascii(key, value) => Some((key.to_string(), value.to_str().ok()?.to_owned())),
            tonic::metadata::KeyAndValueRef::Binary(..) => None,
        });
        self.seen.metadata.lock().push(pairs.collect());
        let request = call.into_inner();
        self.seen.requests.lock().push(request.clone());
        let script = self.script.lock().clone();
        if let Some(status) = script.refuse {
            return Err(status);
        }
        let (events, stream) = mpsc::channel(4);
        let running = Running::new(&self.seen);
        let seen = self.seen.clone();
        tokio::spawn(async move {
            let _running = running;
            tokio::select! {
                () = speak(&events, request, script, &seen) => {}
                () = events.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn stop_sequence(&self, call: Request<StopSequenceRequest>) -> Result<Response<StopSequenceResponse>, Status> {
        let call = call.into_inner();
        self.seen.stopped.lock().push((call.request_id, call.index));
        Ok(Response::new(StopSequenceResponse {}))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(Status::unimplemented("a fake never leaves"))
    }

    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let script = self.script.lock();
        if script.mute {
            return Err(Status::unavailable("not now"));
        }
        Ok(Response::new(GetInfoResponse {
            max_context: script.max_context,
            queued_tokens: script.queued_tokens,
            epoch: script.epoch,
            ready: script.ready,
            group_age_ms: script.group_age.as_millis() as u64,
            model: script.model.clone(),
            model_spec: script.shape.clone(),
            model_fingerprint: script.fingerprint.clone(),
            quantization: script.quantization.clone(),
            kv_cache_dtype: script.kv_cache_dtype.clone(),
            ..Default::default()
        }))
    }
}

async fn say(events: &Events, event: Event) {
    // A router that went away is what `closed` is for.
    let _ = events.send(Ok(GenerateEvent { event: Some(event) })).await;
}

async fn speak(events: &Events, request: GenerateRequest, script: Script, seen: &Seen) {
    let model_fingerprint = script.accepts_with.unwrap_or(script.fingerprint);
    say(events, Event::Accepted(Accepted { queue_position: 3, model_fingerprint, weight_format: String::new() })).await;
    if script.hang {
        std::future::pending::<()>().await;
    }
    let first = request.sequences[0].sampling.clone().unwrap();
    if let (Some(top), true) = (first.prompt_logprobs, request.sequences[0].generated.is_empty()) {
        let tokens = request.prompt[1..].iter().map(|&token| logprob(token, top)).collect();
        say(events, Event::PromptLogprobs(PromptLogprobs { index: 0, start: 1, tokens })).await;
    }
    let mut voices: Vec<Voice> = (0..request.sequences.len()).map(|index| Voice::new(&request, index, &script.answer)).collect();
    let mut told = 0;
    while voices.iter().any(|voice| !voice.over) {
        for voice in voices.iter_mut().filter(|voice| !voice.over) {
            if let Some((after, status)) = &script.break_after
                && told >= *after
            {
                if let Some(status) = status {
                    let _ = events.send(Err(status.clone())).await;
                }
                return;
            }
            let stopped = seen.stopped.lock().contains(&(request.request_id.clone(), voice.index));
            let said = if stopped { vec![voice.end(Reason::Stopped, 0)] } else { voice.next() };
            told += 1;
            for event in said {
                if script.stutter && matches!(event, Event::Token(_)) {
                    say(events, event.clone()).await;
                }
                say(events, event).await;
            }
            if !script.pace.is_zero() {
                sleep(script.pace).await;
            }
        }
    }
    let timings = Timings { queue_us: 11, encode_us: 22, prefill_us: 33, decode_us: 44, cached_prompt_tokens: 5 };
    say(events, Event::Timings(timings)).await;
}

/// One sequence of a fake.
struct Voice {
    index: u32,
    tokens: Vec<u32>,
    position: usize,
    max_new_tokens: u32,
    stop_tokens: Vec<u32>,
    logprobs: Option<u32>,
    over: bool,
}

impl Voice {
    fn new(request: &GenerateRequest, index: usize, answer: &str) -> Self {
        let sequence = &request.sequences[index];
        let sampling = sequence.sampling.clone().unwrap();
        let mut tokens: Vec<u32> = answer.bytes().map(|byte| 1000 + u32::from(byte)).collect();
        tokens.push(END);
        // Past the end token it says nothing but dots.
        tokens.resize(tokens.len().max(sampling.max_new_tokens as usize), 1000 + u32::from(b'.'));
        Self {
            index: index as u32,
            tokens,
            position: sequence.generated.len(),
            max_new_tokens: sampling.max_new_tokens,
            stop_tokens: sampling.stop_tokens,
            logprobs: sampling.logprobs,
            over: false,
        }
    }

    fn next(&mut self) -> Vec<Event> {
        let token = self.tokens[self.position];
        let position = self.position as u32;
        self.position += 1;
        let logprob = self.logprobs.map(|top| logprob(token, top));
        let mut said = vec![Event::Token(Token { index: self.index, position, token, logprob })];
        if self.stop_tokens.contains(&token) {
            said.push(self.end(Reason::StopToken, token));
        } else if self.position as u32 >= self.max_new_tokens {
            said.push(self.end(Reason::Length, 0));
        }
        said
    }

    fn end(&mut self, reason: Reason, stop_token: u32) -> Event {
        self.over = true;
        Event::Finished(Finished { index: self.index, reason: reason.into(), stop_token })
    }
}

fn logprob(token: u32, top: u32) -> TokenLogprob {
    let top_tokens: Vec<u32> = (0..top).map(|at| token + at).collect();
    let top_logprobs = (0..top).map(|at| -0.5 - at as f32).collect();
    TokenLogprob { token, logprob: -0.5, top_tokens, top_logprobs }
}
