//! The replicas this router knows: how busy each one is, and which one takes the next request.

mod choose;
mod poll;
mod prefixes;
mod replica;
mod watch;
mod weights;

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use tessera_proto::internal::GetInfoResponse;
use tessera_registry::ReplicaRecord;
use tessera_service::Tls;
use tessera_types::PrefixHash;
use tokio::{
    sync::watch as channel,
    time::{Instant, timeout_at},
};

use self::choose::choose;
use crate::model::Model;

pub(crate) use self::{
    replica::{Load, Replica},
    watch::follow,
    weights::weights,
};

/// Replicas whose problems are told at most.
const PROBLEMS: usize = 8;

/// What a request asks of the replica that takes it.
pub(crate) struct Wanted<'a> {
    /// Tokens of its longest sequence.
    pub(crate) context: usize,
    /// The prompt's blocks.
    pub(crate) prompt: &'a [PrefixHash],
    /// The weights that it began with, if it has begun and they are known.
    pub(crate) weights: Option<&'a str>,
}

impl Wanted<'_> {
    fn fits(&self, replica: &Replica) -> bool {
        let has_them = |weights| replica.weights().as_deref() == Some(weights);
        replica.is_ready() && replica.context() >= self.context && self.weights.is_none_or(has_them)
    }
}

/// Every replica known.
pub(crate) struct Replicas {
    /// In the order in which they came.
    known: RwLock<Vec<Arc<Replica>>>,
    model: Arc<Model>,
    tls: Option<Tls>,
    /// Counts changes of what is known of any replica.
    changes: channel::Sender<u64>,
}

impl Replicas {
    /// Those of `model`; none is known yet.
    pub(crate) fn new(model: Arc<Model>, tls: Option<Tls>) -> Arc<Self> {
        Arc::new(Self { known: RwLock::default(), model, tls, changes: channel::Sender::new(0) })
    }

    /// A ready replica that fits a request and is not among `tried`: the one with the longest part of its prompt in the
    /// cache, unless others have much less to do.
    pub(crate) fn pick(&self, wanted: &Wanted<'_>, tried: &[Arc<Replica>]) -> Option<Arc<Replica>> {
        let known = self.known.read();
        let fit = known.iter().filter(|replica| wanted.fits(replica));
        let fit: Vec<_> = fit.filter(|replica| !tried.iter().any(|other| Arc::ptr_eq(other, replica))).collect();
        let candidates: Vec<_> = fit.iter().map(|replica| replica.candidate(wanted.prompt)).collect();
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
                tracing::info!(replica = %replica.id(), "a replica has gone");
                replica.forgotten().cancel();
            }
            stays
        });
        let mut changed = known.len() != before;
        for record in records {
            if let Some(replica) = known.iter().find(|replica| replica.is(&record)) {
                changed |= replica.drain(record.draining);
            } else if let Some(replica) = self.meet(&record) {
                known.push(replica);
                changed = true;
            }
        }
        drop(known);
        if changed {
            self.tell();
        }
    }

    /// Lets those who wait look again.
    fn tell(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Takes in what a replica says of itself, or why it says nothing.
    fn note(&self, replica: &Replica, told: Result<GetInfoResponse, String>) {
        let told = told.map_err(|reason| format!("does not answer: {reason}"));
        // Before it is compared with others: it may be the one that they are compared with. One that does not answer has
        // what it had.
        if let Ok(info) = &told {
            let weights = weights(&info.model_fingerprint, &info.number_format()).filter(|_| self.model.unlike(info).is_none());
            replica.holds(weights, Duration::from_millis(info.group_age_ms));
        }
        let told = told.and_then(|info| self.model.unlike(&info).map_or(Ok(info), Err));
        let told = match self.has_other_weights(replica) {
            Some(problem) => told.and(Err(problem)),
            None => told,
        };
        if replica.note(told) {
            tracing::info!(replica = %replica.id(), ready = replica.is_ready(), "a replica changed");
            self.tell();
        }
    }

    /// All have the weights of the one that has had its own longest, or nothing is sent to them: nobody could tell which are
    /// meant, and no stream must go on with others. One that drains makes way for those that come in its place.
    fn has_other_weights(&self, replica: &Replica) -> Option<String> {
        let own = replica.weights()?;
        let (known, now) = (self.known.read(), std::time::Instant::now());
        let staying = known.iter().filter(|other| !other.is_draining());
        let held = staying.filter_map(|other| other.weights_held(now).map(|(since, weights)| (other, since, weights)));
        let (first, _, weights) = held.min_by_key(|(_, since, _)| *since)?;
        (weights != own).then(|| format!("has other weights than {}: {own}, not {weights}", first.id()))
    }

    /// Why nothing is sent to some replicas, a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.known.read().iter().filter_map(|replica| replica.problem()).take(PROBLEMS).collect()
    }

    fn meet(self: &Arc<Self>, record: &ReplicaRecord) -> Option<Arc<Replica>> {
        let ReplicaRecord { id, address, .. } = record;
        match Replica::new(record, self.tls.as_ref()) {
            Ok(replica) => {
                tracing::info!(replica = %id, %address, "a replica has come");
                let replica = Arc::new(replica);
                tokio::spawn(poll::watch(replica.clone(), Arc::downgrade(self)));
                Some(replica)
            }
            Err(error) => {
                tracing::error!(replica = %id, %error, "a replica cannot be called");
                None
            }
        }
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.known.get_mut().iter().for_each(|replica| replica.forgotten().cancel());
    }
}
