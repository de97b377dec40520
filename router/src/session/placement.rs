//! Finding a replica for a request, at first and when one was lost.

use std::{sync::Arc, time::Duration};

use tessera_proto::internal::{self as wire, generate_event::Event as WireEvent};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use super::{MAX_LOSSES, Session, upstream::Upstream};
use crate::{
    RequestError,
    event::Accepted,
    replicas::{Replica, Wanted, weights},
};

/// How soon clients are told to come back when there is no replica, or no router.
pub(crate) const COME_BACK: Duration = Duration::from_secs(2);
/// The pause before every replica is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What a replica's status means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Any replica would say the same.
    Refused,
    /// This one has too much to do.
    Full,
    /// This one is broken, or gone.
    Lost,
}

impl Verdict {
    pub(super) fn of(status: &Status) -> Self {
        match status.code() {
            Code::ResourceExhausted => Self::Full,
            Code::Unavailable | Code::Aborted | Code::Cancelled | Code::FailedPrecondition => Self::Lost,
            Code::Unknown | Code::Internal => Self::Lost,
            _ => Self::Refused,
        }
    }
}

impl Session {
    /// Puts the request on a replica, with what was generated already.
    ///
    /// A new request is refused when every replica is full; one that was accepted once keeps trying, since its
    /// client sees a pause rather than a broken stream.
    pub(super) async fn place(&mut self) -> Result<(), RequestError> {
        if self.losses > MAX_LOSSES {
            return Err(RequestError::unavailable(
                format!("{MAX_LOSSES} replicas in a row were lost with this request"),
                COME_BACK,
            ));
        }
        let moved = self.accepted.is_some();
        let patience = if moved { self.patience.failover } else { self.patience.start };
        let by = (Instant::now() + patience).min(self.prepared.deadline);
        let mut tried: Vec<Arc<Replica>> = self.lost.take().into_iter().collect();
        let mut refusal = None;
        let context = self.prepared.context();
        loop {
            let wanted = Wanted { context, prompt: &self.prefix, weights: self.weights.as_deref() };
            let Some(replica) = self.replicas.pick(&wanted, &tried) else {
                match refusal {
                    Some((Verdict::Full, error)) if !moved => return Err(error),
                    _ if Instant::now() >= by => return Err(self.given_up(refusal.map(|(_, error)| error))),
                    _ => {}
                }
                self.replicas.wait_for_change(by.min(Instant::now() + PAUSE)).await;
                tried.clear();
                continue;
            };
            let opened = timeout_at(self.prepared.deadline.min(Instant::now() + self.patience.accept), self.open(&replica));
            let status = match opened.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("the replica did not accept the request in time"),
            };
            match Verdict::of(&status) {
                Verdict::Refused => return Err(status.into()),
                Verdict::Lost => replica.suspect(),
                Verdict::Full => {}
            }
            tracing::debug!(request = %self.prepared.id, replica = %replica.id(), %status, "a replica did not take a request");
            refusal = Some((Verdict::of(&status), status.into()));
            tried.push(replica);
        }
    }

    fn given_up(&self, refusal: Option<RequestError>) -> RequestError {
        if Instant::now() >= self.prepared.deadline {
            return RequestError::deadline("waiting for a replica");
        }
        let why = refusal.map_or_else(String::new, |error| format!(": {}", error.problem));
        RequestError::unavailable(format!("no replica is ready{why}"), COME_BACK)
    }

    async fn open(&mut self, replica: &Arc<Replica>) -> Result<(), Status> {
        let sequences: Vec<usize> = (0..self.sequences.len()).filter(|&at| !self.sequences[at].is_finished()).collect();
        let id = format!("{}#{:08x}", self.prepared.id, rand::random::<u32>());
        let request = self.request(&id, &sequences);
        let load = replica.begin(self.prepared.tokens.len() as u64);
        // What it was chosen for; it was asked up to a moment ago, and may have been given others since.
        let wanted = self.weights.clone().or_else(|| replica.weights());
        let mut call = tonic::Request::new(request);
        self.prepared.trace.inject(call.metadata_mut());
        let stream = replica.client().generate(call).await?.into_inner();
        let mut upstream = Upstream { replica: replica.clone(), stream, id, sequences, _load: load };
        let first = upstream.next().await?;
        let Some(WireEvent::Accepted(accepted)) = first else {
            return Err(Status::unavailable("the replica did not begin with `accepted`"));
        };
        let told = weights(&accepted.model_fingerprint, &accepted.weight_format).or_else(|| replica.weights());
        if wanted.is_some() && wanted != told {
            return Err(Status::failed_precondition("the replica has other weights now, or keeps them or its cache otherwise"));
        }
        if self.accepted.is_some() {
            self.resumed();
        }
        self.accepted.get_or_insert_with(|| Accepted {
            request_id: self.prepared.id.clone(),
            prompt_tokens: self.prepared.tokens.len() as u32,
            image_tokens: self.prepared.image_tokens,
            queue_position: accepted.queue_position,
        });
        replica.remember(&self.prefix);
        self.weights = told;
        self.prompt_logprobs.clear();
        self.upstream = Some(upstream);
        Ok(())
    }

    fn request(&self, id: &str, sequences: &[usize]) -> wire::GenerateRequest {
        let sequences = sequences.iter().map(|&at| &self.sequences[at]).map(|sequence| {
            let mut sampling = sequence.params().clone();
            if !sequence.generated().is_empty() {
                // They came before the first token.
                sampling.logprobs.prompt = None;
            }
            let generated = sequence.generated().iter().map(|token| token.0).collect();
            wire::SequenceRequest { sampling: Some((&sampling).into()), generated }
        });
        let left = self.prepared.deadline.saturating_duration_since(Instant::now());
        wire::GenerateRequest {
            request_id: id.to_owned(),
            prompt: self.prepared.tokens.iter().map(|token| token.0).collect(),
            images: self.prepared.images.iter().map(Into::into).collect(),
            pixels: self.prepared.pixels.iter().cloned().map(Into::into).collect(),
            sequences: sequences.collect(),
            priority: self.prepared.priority,
            deadline_us: (left.as_micros() as u64).max(1),
        }
    }
}
