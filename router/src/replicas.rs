//! The replicas this router knows: how busy each one is, and which one takes the next request.

mod choose;
mod poll;
mod prefixes;
mod watch;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use parking_lot::{Mutex, RwLock};
use tessera_proto::{
    MAX_MESSAGE_BYTES,
    internal::{GetInfoResponse, coordinator_client::CoordinatorClient},
};
use tessera_registry::ReplicaRecord;
use tessera_service::{PeerError, Tls, peer};
use tessera_types::PrefixHash;
use tokio::{
    sync::watch as channel,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use self::{
    choose::{Candidate, choose},
    prefixes::Prefixes,
};

pub(crate) use self::watch::follow;

/// Every replica known.
pub(crate) struct Replicas {
    known: RwLock<Vec<Arc<Replica>>>,
    tls: Option<Tls>,
    /// Counts changes of what is known of any replica.
    changes: channel::Sender<u64>,
}

/// One replica.
pub(crate) struct Replica {
    id: String,
    address: String,
    client: CoordinatorClient<Channel>,
    ready: AtomicBool,
    /// It finishes what it has, and takes nothing new.
    draining: AtomicBool,
    /// Tokens waiting there, as it said last.
    queued_tokens: AtomicU64,
    /// Prompt tokens that this router has sent and that still run there.
    sent_tokens: AtomicU64,
    /// 0 while unknown.
    max_context: AtomicU32,
    prefixes: Mutex<Prefixes>,
    forgotten: CancellationToken,
}

/// Prompt tokens in a replica's account, taken off when dropped.
pub(crate) struct Load {
    replica: Arc<Replica>,
    tokens: u64,
}

impl Replicas {
    pub(crate) fn new(tls: Option<Tls>) -> Arc<Self> {
        Arc::new(Self { known: RwLock::default(), tls, changes: channel::Sender::new(0) })
    }

    /// A ready replica that holds `context` tokens and is not among `tried`: the one with the longest part of `prompt`
    /// in its cache, unless others have much less to do.
    pub(crate) fn pick(&self, context: usize, prompt: &[PrefixHash], tried: &[Arc<Replica>]) -> Option<Arc<Replica>> {
        let known = self.known.read();
        let fit = known.iter().filter(|replica| replica.is_ready() && replica.context() >= context);
        let fit: Vec<_> = fit.filter(|replica| !tried.iter().any(|other| Arc::ptr_eq(other, replica))).collect();
        let candidates: Vec<_> = fit.iter().map(|replica| replica.candidate(prompt)).collect();
        choose(&candidates, |below| rand::random_range(..below)).map(|at| fit[at].clone())
    }

    /// Waits until something about a replica changes, at most until `by`.
    pub(crate) async fn wait_for_change(&self, by: Instant) {
        let mut changes = self.changes.subscribe();
        // The sender lives in `self`, so the only other way out is time.
        let _ = timeout_at(by, changes.changed()).await;
    }

    /// Hears of changes.
    pub(crate) fn changes(&self) -> channel::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many are ready, and how many are known.
    pub(crate) fn count(&self) -> (usize, usize) {
        let known = self.known.read();
        (known.iter().filter(|replica| replica.is_ready()).count(), known.len())
    }

    /// The longest context that a ready replica holds; `None` while none is ready.
    pub(crate) fn max_context(&self) -> Option<usize> {
        self.known.read().iter().filter(|replica| replica.is_ready()).map(|replica| replica.context()).max()
    }

    /// Makes the set of known replicas that of `records`; those that stay keep their connection.
    pub(crate) fn set(self: &Arc<Self>, records: Vec<ReplicaRecord>) {
        let mut known = self.known.write();
        let before = known.len();
        known.retain(|replica| {
            let stays = records.iter().any(|record| replica.is(record));
            if !stays {
                tracing::info!(replica = %replica.id, "a replica has gone");
                replica.forgotten.cancel();
            }
            stays
        });
        let mut changed = known.len() != before;
        for record in records {
            if let Some(replica) = known.iter().find(|replica| replica.is(&record)) {
                changed |= replica.draining.swap(record.draining, Relaxed) != record.draining;
            } else if let Some(replica) = self.meet(&record) {
                known.push(replica);
                changed = true;
            }
        }
        drop(known);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn meet(&self, record: &ReplicaRecord) -> Option<Arc<Replica>> {
        let ReplicaRecord { id, address, .. } = record;
        match Replica::new(record, self.tls.as_ref()) {
            Ok(replica) => {
                tracing::info!(replica = %id, %address, "a replica has come");
                let replica = Arc::new(replica);
                tokio::spawn(poll::watch_load(replica.clone(), self.changes.clone()));
                Some(replica)
            }
            Err(error) => {
                tracing::error!(replica = %id, %error, "a replica cannot be called");
                None
            }
        }
    }
}

impl Replica {
    fn new(record: &ReplicaRecord, tls: Option<&Tls>) -> Result<Self, PeerError> {
        let client = CoordinatorClient::new(peer(&record.address, tls)?)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self {
            id: record.id.clone(),
            address: record.address.clone(),
            client,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(record.draining),
            queued_tokens: AtomicU64::new(0),
            sent_tokens: AtomicU64::new(0),
            max_context: AtomicU32::new(0),
            prefixes: Mutex::default(),
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

    /// Puts `tokens` in its account.
    pub(crate) fn begin(self: &Arc<Self>, tokens: u64) -> Load {
        self.sent_tokens.fetch_add(tokens, Relaxed);
        Load { replica: self.clone(), tokens }
    }

    /// Notes that it was sent a prompt, which it will have in its cache.
    pub(crate) fn remember(&self, prompt: &[PrefixHash]) {
        self.prefixes.lock().remember(prompt);
    }

    /// Not to be chosen until it has answered again.
    pub(crate) fn suspect(&self) {
        self.ready.store(false, Relaxed);
    }

    fn is(&self, record: &ReplicaRecord) -> bool {
        self.id == record.id && self.address == record.address
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) && !self.draining.load(Relaxed)
    }

    /// Tokens that a sequence may have there; one that does not say holds what the model can.
    fn context(&self) -> usize {
        match self.max_context.load(Relaxed) {
            0 => usize::MAX,
            tokens => tokens as usize,
        }
    }

    fn candidate(&self, prompt: &[PrefixHash]) -> Candidate {
        Candidate { matched: self.prefixes.lock().matched(prompt), load: self.load() }
    }

    fn load(&self) -> u64 {
        self.queued_tokens.load(Relaxed) + self.sent_tokens.load(Relaxed)
    }

    /// Notes what it says of itself; whether that makes a difference.
    fn note(&self, info: &GetInfoResponse) -> bool {
        self.queued_tokens.store(info.queued_tokens, Relaxed);
        self.max_context.store(info.max_context, Relaxed);
        self.prefixes.lock().note(info.epoch, info.kv_blocks);
        self.ready.swap(info.ready, Relaxed) != info.ready
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.replica.sent_tokens.fetch_sub(self.tokens, Relaxed);
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.known.get_mut().iter().for_each(|replica| replica.forgotten.cancel());
    }
}
