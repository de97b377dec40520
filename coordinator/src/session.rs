//! Who listens to which sequence: events of the engine go out as messages to routers.

use std::collections::HashMap;

use tessera_engine::{Admission, Event, FinishReason, NewRequest, RequestNumber, RequestTimings};
use tessera_proto::internal::{self as wire, generate_event, generate_event::Event as WireEvent};
use tessera_types::SequenceId;
use tokio::sync::mpsc;
use tonic::Status;

use crate::status;

/// What a request's stream carries.
pub(crate) type Message = Result<wire::GenerateEvent, Status>;

/// How often a listener is told that its request goes on; later it just does.
const RESUMPTIONS: u32 = 16;

/// What the weights are known by that tokens come from.
pub(crate) struct Weights {
    pub(crate) fingerprint: String,
    /// As `tessera_proto::number_format` names it.
    pub(crate) format: String,
}

/// A request that somebody listens to.
struct Session {
    id: String,
    /// As wide as the request has events at most: a slow listener holds up nobody, and memory stays bounded.
    sender: mpsc::Sender<Message>,
    sequences: Vec<SequenceId>,
    /// How often it may still be told that it goes on.
    resumptions: u32,
}

/// All requests that somebody listens to.
#[derive(Default)]
pub(crate) struct Sessions {
    open: HashMap<RequestNumber, Session>,
    by_id: HashMap<String, RequestNumber>,
    by_sequence: HashMap<SequenceId, (RequestNumber, u32)>,
}

/// Events a request makes at most: its tokens, its prompt's descriptions, and a few words around them.
pub(crate) fn event_bound(request: &NewRequest, max_context: usize) -> usize {
    let sequences = request.sequences.iter().map(|sequence| {
        let described = if sequence.sampling.logprobs.prompt.is_some() { request.prompt.len() } else { 0 };
        described + max_context.min(sequence.sampling.max_new_tokens as usize) + 1
    });
    sequences.sum::<usize>() + 3 + RESUMPTIONS as usize
}

impl Sessions {
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Opens a session for a request that was admitted; its first message says so, and with which weights.
    pub(crate) fn open(&mut self, id: String, admission: Admission, bound: usize, weights: Weights) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(bound);
        for (&sequence, index) in admission.sequences.iter().zip(0..) {
            self.by_sequence.insert(sequence, (admission.request, index));
        }
        self.by_id.insert(id.clone(), admission.request);
        self.open.insert(admission.request, Session { id, sender, sequences: admission.sequences, resumptions: RESUMPTIONS });
        let queue_position = admission.queue_position as u32;
        let accepted = wire::Accepted { queue_position, model_fingerprint: weights.fingerprint, weight_format: weights.format };
        self.send(admission.request, Ok(WireEvent::Accepted(accepted)));
        receiver
    }

    /// The sequence that a router means.
    pub(crate) fn sequence(&self, id: &str, index: u32) -> Option<SequenceId> {
        let session = self.open.get(self.by_id.get(id)?)?;
        session.sequences.get(index as usize).copied()
    }

    /// Forgets the requests whose listener is gone; returns their sequences.
    pub(crate) fn abandoned(&mut self) -> Vec<SequenceId> {
        let gone = self.open.iter().filter(|(_, session)| session.sender.is_closed());
        let gone: Vec<_> = gone.map(|(&request, _)| request).collect();
        gone.into_iter().flat_map(|request| self.close(request)).collect()
    }

    /// Tells every listener that a new group goes on with its request.
    pub(crate) fn resumed(&mut self) {
        let requests: Vec<_> = self.open.keys().copied().collect();
        for request in requests {
            let Some(session) = self.open.get_mut(&request).filter(|session| session.resumptions > 0) else { continue };
            session.resumptions -= 1;
            self.send(request, Ok(WireEvent::Resumed(wire::Resumed {})));
        }
    }

    /// Ends every stream with the status.
    pub(crate) fn fail_all(&mut self, status: &Status) -> Vec<SequenceId> {
        let all: Vec<_> = self.open.keys().copied().collect();
        all.into_iter().flat_map(|request| self.fail(request, status.clone())).collect()
    }

    /// Passes an event on; returns sequences that have nobody left to listen.
    pub(crate) fn tell(&mut self, event: Event) -> Vec<SequenceId> {
        match event {
            Event::Token { sequence, position, token, logprob } => self.tell_sequence(sequence, |index| {
                let logprob = logprob.as_ref().map(Into::into);
                WireEvent::Token(wire::Token { index, position: position as u32, token: token.0, logprob })
            }),
            Event::PromptLogprobs(entry) => self.tell_sequence(entry.sequence, |index| {
                let tokens = entry.tokens.iter().map(Into::into).collect();
                WireEvent::PromptLogprobs(wire::PromptLogprobs { index, start: entry.start, tokens })
            }),
            Event::Finished { sequence, reason } => return self.finished(sequence, reason),
            Event::RequestFinished { request, timings, cached_prompt_tokens } => {
                self.send(request, Ok(WireEvent::Timings(wire_timings(timings, cached_prompt_tokens))));
                self.close(request);
            }
        }
        Vec::new()
    }

    fn finished(&mut self, sequence: SequenceId, reason: FinishReason) -> Vec<SequenceId> {
        use wire::finished::Reason;
        let (reason, stop_token) = match reason {
            FinishReason::Stop(token) => (Reason::StopToken, token.0),
            FinishReason::Length => (Reason::Length, 0),
            FinishReason::Cancelled => (Reason::Stopped, 0),
            FinishReason::DeadlineExceeded => return self.fail_sequence(sequence, status::deadline()),
            FinishReason::Broken => return self.fail_sequence(sequence, status::broken()),
            FinishReason::CacheTooSmall => {
                return self.fail_sequence(sequence, status::away("the new group's cache is too small for the request"));
            }
        };
        let finished = |index| WireEvent::Finished(wire::Finished { index, reason: reason.into(), stop_token });
        self.tell_sequence(sequence, finished);
        Vec::new()
    }

    fn fail_sequence(&mut self, sequence: SequenceId, status: Status) -> Vec<SequenceId> {
        self.by_sequence.get(&sequence).copied().map(|(request, _)| self.fail(request, status)).unwrap_or_default()
    }

    fn fail(&mut self, request: RequestNumber, status: Status) -> Vec<SequenceId> {
        self.send(request, Err(status));
        self.close(request)
    }

    fn tell_sequence(&mut self, sequence: SequenceId, event: impl FnOnce(u32) -> WireEvent) {
        if let Some(&(request, index)) = self.by_sequence.get(&sequence) {
            self.send(request, Ok(event(index)));
        }
    }

    fn send(&mut self, request: RequestNumber, event: Result<generate_event::Event, Status>) {
        let Some(session) = self.open.get(&request) else { return };
        let message = event.map(|event| wire::GenerateEvent { event: Some(event) });
        // Only a listener that is gone can refuse: the channel holds all there is to say.
        if let Err(mpsc::error::TrySendError::Full(_)) = session.sender.try_send(message) {
            tracing::error!(request = session.id, "a request has more events than it can have");
        }
    }

    fn close(&mut self, request: RequestNumber) -> Vec<SequenceId> {
        let Some(session) = self.open.remove(&request) else { return Vec::new() };
        self.by_id.remove(&session.id);
        for sequence in &session.sequences {
            self.by_sequence.remove(sequence);
        }
        session.sequences
    }
}

fn wire_timings(timings: RequestTimings, cached_prompt_tokens: usize) -> wire::Timings {
    wire::Timings {
        queue_us: timings.queue.as_micros() as u64,
        encode_us: timings.encode.as_micros() as u64,
        prefill_us: timings.prefill.as_micros() as u64,
        decode_us: timings.decode.as_micros() as u64,
        cached_prompt_tokens: cached_prompt_tokens as u32,
    }
}
