//! One request's life on the replicas: placed, read token by token, moved when a replica is lost, ended with usage.
//!
//! A session is polled by the connection that it answers. Dropping it drops the replica's stream, which frees its
//! sequences: there is no task and no channel between a replica and its client.

mod placement;
mod sequence;
mod upstream;

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tessera_proto::internal::{self as wire, generate_event::Event as WireEvent};
use tessera_types::{PrefixHash, SamplingParams, TokenId, TokenLogprob};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

pub(crate) use self::placement::COME_BACK;
use self::{
    placement::Verdict,
    sequence::{Progress, Sequence},
    upstream::Upstream,
};
use crate::{
    Patience, RequestError,
    event::{Accepted, Delta, Event, Finished, Timings, Usage},
    metrics::Tally,
    pipeline::Prepared,
    replicas::{Replica, Replicas},
};

/// Losses of a replica in a row, without a token between them, that a request survives.
const MAX_LOSSES: u32 = 5;
/// How long a request whose text is complete waits for the replica's timings.
const TIMINGS_WAIT: Duration = Duration::from_secs(2);

/// One request on the replicas.
pub(crate) struct Session {
    prepared: Prepared,
    replicas: Arc<Replicas>,
    /// The prompt's blocks, by which a replica is chosen.
    prefix: Vec<PrefixHash>,
    patience: Patience,
    tally: Tally,
    sequences: Vec<Sequence>,
    /// When each sequence's last token came.
    last_tokens: Vec<Option<Instant>>,
    prompt_logprobs: Vec<TokenLogprob>,
    upstream: Option<Upstream>,
    /// What the weights are known by that its tokens come from.
    weights: Option<Arc<str>>,
    lost: Option<Arc<Replica>>,
    losses: u32,
    accepted: Option<Accepted>,
    ready: VecDeque<Event>,
    deadline: Pin<Box<Sleep>>,
    shutdown: CancellationToken,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    generated_tokens: u32,
    cached_prompt_tokens: u32,
    timings: Timings,
    ended: bool,
}

impl Session {
    /// Places the request on a replica and waits until that has accepted it.
    pub(crate) async fn start(
        prepared: Prepared,
        replicas: Arc<Replicas>,
        patience: Patience,
        tally: Tally,
        closing: CancellationToken,
    ) -> Result<(Accepted, Self), RequestError> {
        let resolved = &prepared.resolved;
        let sequence = |(index, params): (usize, &SamplingParams)| {
            Sequence::new(index as u32, params.clone(), resolved, &prepared.tokenizer)
        };
        let sequences: Vec<_> = resolved.sequences.iter().enumerate().map(sequence).collect();
        let deadline = Box::pin(sleep_until(prepared.deadline));
        let timings = prepared.timings;
        let prefix = PrefixHash::of_prompt(&prepared.tokens, &prepared.images);
        let mut session = Self {
            prepared,
            replicas,
            prefix,
            patience,
            tally,
            last_tokens: vec![None; sequences.len()],
            sequences,
            prompt_logprobs: Vec::new(),
            upstream: None,
            weights: None,
            lost: None,
            losses: 0,
            accepted: None,
            ready: VecDeque::new(),
            deadline,
            closing: Box::pin(closing.clone().cancelled_owned()),
            shutdown: closing,
            generated_tokens: 0,
            cached_prompt_tokens: 0,
            timings,
            ended: false,
        };
        if let Err(error) = session.place_unless_closing().await {
            session.tally.failed(error.kind);
            return Err(error);
        }
        let accepted = session.accepted.clone().ok_or_else(|| RequestError::internal("placed but not accepted"))?;
        Ok((accepted, session))
    }

    /// The events behind `Accepted`; the last is `Usage` or an error.
    pub(crate) fn events(self) -> impl Stream<Item = Result<Event, RequestError>> + Send + 'static {
        futures::stream::unfold(Box::new(self), |mut session| async move { Some((session.next().await?, session)) })
    }

    /// The request, as it was prepared.
    pub(crate) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The next event; `None` behind the last.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, RequestError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.advance().await {
                self.ended = true;
                self.upstream = None;
                self.tally.failed(error.kind);
                return Some(Err(error));
            }
        }
    }

    async fn advance(&mut self) -> Result<(), RequestError> {
        let Some(upstream) = &mut self.upstream else {
            if self.all_finished() {
                self.end();
                return Ok(());
            }
            return self.place_unless_closing().await;
        };
        let message = tokio::select! {
            biased;
            message = upstream.next() => message,
            () = &mut self.deadline => return self.out_of_time(),
            () = &mut self.closing => return Err(shutting_down()),
        };
        match message {
            Ok(Some(event)) => {
                if let Err(status) = self.apply(event) {
                    return self.lose(status);
                }
            }
            Ok(None) if self.all_finished() => self.end(),
            Ok(None) => return self.lose(Status::unavailable("the replica ended the stream early")),
            Err(_) if self.all_finished() => self.end(),
            Err(status) => return self.lose(status),
        }
        Ok(())
    }

    async fn place_unless_closing(&mut self) -> Result<(), RequestError> {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            placed = self.place() => placed,
            () = shutdown.cancelled() => Err(shutting_down()),
        }
    }

    /// # Errors
    /// A replica that breaks the wire's rules is as good as lost.
    fn apply(&mut self, event: WireEvent) -> Result<(), Status> {
        match event {
            WireEvent::Token(token) => return self.token(token),
            WireEvent::PromptLogprobs(piece) => self.prompt_logprobs(piece),
            WireEvent::Finished(finished) => return self.finished(finished),
            WireEvent::Timings(timings) => {
                self.timings.queue_us = timings.queue_us;
                self.timings.encode_us = timings.encode_us;
                self.timings.prefill_us = timings.prefill_us;
                self.timings.decode_us = timings.decode_us;
                self.cached_prompt_tokens = timings.cached_prompt_tokens;
                // They come last.
                if self.all_finished() {
                    self.end();
                }
            }
            WireEvent::Resumed(_) => self.resumed(),
            WireEvent::Accepted(_) => {}
        }
        Ok(())
    }

    fn resumed(&mut self) {
        self.ready.push_back(Event::Resumed(self.generated_tokens));
    }

    fn token(&mut self, token: wire::Token) -> Result<(), Status> {
        let Some(sequence) = self.upstream.as_ref().and_then(|upstream| upstream.sequence(token.index)) else {
            return Err(Status::internal("a token of a sequence that was not asked for"));
        };
        let known = self.sequences[sequence].generated().len();
        // A sequence that met its stop string may still run for a step; a token known already is not told twice.
        if self.sequences[sequence].is_finished() || (token.position as usize) < known {
            return Ok(());
        }
        if token.position as usize > known {
            return Err(Status::internal("a gap between two tokens"));
        }
        self.time_token(sequence);
        self.generated_tokens += 1;
        self.losses = 0;
        let id = TokenId(token.token);
        let progress = self.sequences[sequence].token(id);
        let stopped_by_text = progress.stopped_by_text();
        self.tell(sequence, Some((id, token.logprob)), progress);
        if stopped_by_text && let Some(upstream) = &self.upstream {
            upstream.stop(token.index);
        }
        Ok(())
    }

    fn time_token(&mut self, sequence: usize) {
        let now = Instant::now();
        if self.generated_tokens == 0 {
            self.timings.time_to_first_token_us = self.prepared.elapsed_us();
            self.tally.first_token();
        }
        if let Some(before) = self.last_tokens[sequence].replace(now) {
            self.tally.next_token(now - before);
        }
    }

    fn finished(&mut self, finished: wire::Finished) -> Result<(), Status> {
        let Some(sequence) = self.upstream.as_ref().and_then(|upstream| upstream.sequence(finished.index)) else {
            return Err(Status::internal("the end of a sequence that was not asked for"));
        };
        if !self.sequences[sequence].is_finished() {
            let progress = self.sequences[sequence].cut();
            self.tell(sequence, None, progress);
        }
        Ok(())
    }

    fn prompt_logprobs(&mut self, piece: wire::PromptLogprobs) {
        let expected = self.prompt_logprobs.len() + 1;
        let first = self.upstream.as_ref().and_then(|upstream| upstream.sequence(piece.index)) == Some(0);
        if first && piece.start as usize == expected {
            self.prompt_logprobs.extend(piece.tokens.into_iter().map(Into::into));
        }
    }

    /// Queues what a sequence's progress tells the client: a delta for every token, and its end.
    fn tell(&mut self, at: usize, token: Option<(TokenId, Option<wire::TokenLogprob>)>, progress: Progress) {
        let sequence = &mut self.sequences[at];
        let mut delta =
            Delta { index: at as u32, text: progress.text, generated_tokens: self.generated_tokens, ..Delta::default() };
        let came = token.is_some();
        if let Some((id, logprob)) = token
            && self.prepared.tells_tokens()
        {
            delta.tokens.push(id);
            delta.logprobs.extend(logprob.map(TokenLogprob::from));
        }
        if at == 0 {
            delta.prompt_logprobs = std::mem::take(&mut self.prompt_logprobs);
        }
        if came || !delta.text.is_empty() || !delta.prompt_logprobs.is_empty() {
            delta.seq = sequence.next_delta();
            self.ready.push_back(Event::Delta(delta));
        }
        if let Some(finished) = progress.finished {
            self.ready.push_back(Event::Finished(Finished { generated_tokens: self.generated_tokens, ..finished }));
            if self.all_finished() {
                let soon = Instant::now() + TIMINGS_WAIT;
                self.deadline.as_mut().reset(soon.min(self.prepared.deadline));
            }
        }
    }

    fn all_finished(&self) -> bool {
        self.sequences.iter().all(Sequence::is_finished)
    }

    fn end(&mut self) {
        self.upstream = None;
        self.ended = true;
        self.timings.total_us = self.prepared.elapsed_us();
        let usage = Usage {
            generated_tokens: self.generated_tokens,
            cached_prompt_tokens: self.cached_prompt_tokens,
            timings: self.timings,
            ..self.prepared.usage()
        };
        self.tally.done(&usage);
        self.ready.push_back(Event::Usage(usage));
    }

    fn out_of_time(&mut self) -> Result<(), RequestError> {
        if self.all_finished() {
            self.end();
            return Ok(());
        }
        Err(RequestError::deadline("tokens were being generated"))
    }

    /// The replica's stream broke: the request moves on, unless the status says that it would break anywhere.
    fn lose(&mut self, status: Status) -> Result<(), RequestError> {
        let Some(upstream) = self.upstream.take() else { return Ok(()) };
        match Verdict::of(&status) {
            Verdict::Refused => return Err(status.into()),
            // Others need not find out by trying.
            Verdict::Lost => upstream.replica().suspect(),
            Verdict::Full => {}
        }
        self.losses += 1;
        self.tally.replayed();
        tracing::warn!(request = %self.prepared.id, replica = %upstream.replica().id(), %status, losses = self.losses, "a replica was lost");
        self.lost = Some(upstream.replica().clone());
        Ok(())
    }
}

fn shutting_down() -> RequestError {
    RequestError::unavailable("the server is shutting down", COME_BACK)
}
