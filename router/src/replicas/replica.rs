//! One replica: how it is called, and what is known of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tessera_proto::{
    MAX_MESSAGE_BYTES,
    internal::{GetInfoResponse, coordinator_client::CoordinatorClient},
};
use tessera_registry::ReplicaRecord;
use tessera_service::{Complaint, PeerError, Tls, peer};
use tessera_types::PrefixHash;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{choose::Candidate, prefixes::Prefixes, weights::Weights};

/// One replica.
pub(crate) struct Replica {
    id: String,
    address: String,
    client: CoordinatorClient<Channel>,
    /// Whether it takes requests, as it said last.
    ready: AtomicBool,
    /// Something went wrong with it since.
    suspected: AtomicBool,
    /// It finishes what it has, and takes nothing new.
    draining: AtomicBool,
    /// Tokens waiting there, as it said last.
    queued_tokens: AtomicU64,
    /// Prompt tokens that this router has sent and that still run there.
    sent_tokens: AtomicU64,
    /// 0 while unknown.
    max_context: AtomicU32,
    prefixes: Mutex<Prefixes>,
    condition: Mutex<Condition>,
    doubted: Notify,
    forgotten: CancellationToken,
}

#[derive(Default)]
struct Condition {
    weights: Weights,
    /// Why nothing can be sent there, behind the replica's name.
    problem: Option<String>,
    complaint: Complaint,
}

/// Prompt tokens in a replica's account, taken off when dropped.
pub(crate) struct Load {
    replica: Arc<Replica>,
    tokens: u64,
}

impl Replica {
    pub(super) fn new(record: &ReplicaRecord, tls: Option<&Tls>) -> Result<Self, PeerError> {
        let client = CoordinatorClient::new(peer(&record.address, tls)?)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self {
            id: record.id.clone(),
            address: record.address.clone(),
            client,
            ready: AtomicBool::new(false),
            suspected: AtomicBool::new(false),
            draining: AtomicBool::new(record.draining),
            queued_tokens: AtomicU64::new(0),
            sent_tokens: AtomicU64::new(0),
            max_context: AtomicU32::new(0),
            prefixes: Mutex::default(),
            condition: Mutex::default(),
            doubted: Notify::new(),
            forgotten: CancellationToken::new(),
        })
    }

    /// Its name in the registry.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// A client of it.
    pub(crate) fn client(&self) -> CoordinatorClient<Channel> {
        self.client.clone()
    }

    /// What its weights are known by, if it has said so.
    pub(crate) fn weights(&self) -> Option<Arc<str>> {
        self.condition.lock().weights.name()
    }

    /// Since when it has had which weights, as far as that counts among replicas.
    pub(super) fn weights_held(&self, now: Instant) -> Option<(Instant, Arc<str>)> {
        self.condition.lock().weights.held(now)
    }

    /// Puts `tokens` in its account.
    pub(crate) fn begin(self: &Arc<Self>, tokens: u64) -> Load {
        self.sent_tokens.fetch_add(tokens, Relaxed);
        Load { replica: self.clone(), tokens }
    }

    /// Notes that it was sent a prompt, which it will have in its cache.
    pub(crate) fn remember(&self, prompt: &[PrefixHash]) {
        self.prefixes.lock().remember(prompt);
    }

    /// Not to be chosen until it has answered again; it is asked at once.
    pub(crate) fn suspect(&self) {
        self.suspected.store(true, Relaxed);
        self.doubted.notify_one();
    }

    /// Waits until somebody suspects it.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Ends when it is forgotten.
    pub(super) fn forgotten(&self) -> CancellationToken {
        self.forgotten.clone()
    }

    pub(super) fn is(&self, record: &ReplicaRecord) -> bool {
        self.id == record.id && self.address == record.address
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) && !self.suspected.load(Relaxed) && !self.is_draining()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Notes whether it drains; whether that is new.
    pub(super) fn drain(&self, draining: bool) -> bool {
        self.draining.swap(draining, Relaxed) != draining
    }

    /// Tokens that a sequence may have there; one that does not say holds what the model can.
    pub(super) fn context(&self) -> usize {
        match self.max_context.load(Relaxed) {
            0 => usize::MAX,
            tokens => tokens as usize,
        }
    }

    pub(super) fn candidate(&self, prompt: &[PrefixHash]) -> Candidate {
        Candidate { matched: self.prefixes.lock().matched(prompt), load: self.load() }
    }

    fn load(&self) -> u64 {
        self.queued_tokens.load(Relaxed) + self.sent_tokens.load(Relaxed)
    }

    /// Notes what its weights are known by, and how old its group is.
    pub(super) fn holds(&self, weights: Option<Arc<str>>, age: Duration) {
        self.condition.lock().weights.tell(weights, age, Instant::now());
    }

    /// Why nothing can be sent there, in a sentence that names it.
    pub(super) fn problem(&self) -> Option<String> {
        let condition = self.condition.lock();
        condition.problem.as_ref().map(|problem| format!("{} at {} {problem}", self.id, self.address))
    }

    /// Notes what it says of itself, or why nothing can be sent there; whether that makes a difference.
    pub(super) fn note(&self, told: Result<GetInfoResponse, String>) -> bool {
        let ready = matches!(&told, Ok(info) if info.ready);
        let mut condition = self.condition.lock();
        match told {
            Ok(info) => {
                self.queued_tokens.store(info.queued_tokens, Relaxed);
                self.max_context.store(info.max_context, Relaxed);
                self.prefixes.lock().note(info.epoch, info.kv_blocks);
                condition.problem = None;
                condition.complaint.settle();
            }
            Err(problem) => {
                if condition.complaint.is_due(&problem, Instant::now()) {
                    tracing::warn!(replica = %self.id, address = %self.address, "the replica {problem}");
                }
                condition.problem = Some(problem);
            }
        }
        drop(condition);
        let (was, suspected) = (self.ready.swap(ready, Relaxed), self.suspected.swap(false, Relaxed));
        was != ready || (suspected && ready)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.replica.sent_tokens.fetch_sub(self.tokens, Relaxed);
    }
}
