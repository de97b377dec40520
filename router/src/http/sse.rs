//! Server-sent events: a session's chunks as a response body.

use std::{convert::Infallible, pin::Pin, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderValue, header};
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep};

use super::{chunks::Chunks, error};
use crate::{RequestError, event::Event, watched::Watched};

/// A stream that says nothing for so long sends a comment, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that are ready together go out together, up to so many.
const TOGETHER: usize = 32;

/// Appends `data: {…}` as one event.
pub(crate) fn write_data(body: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    if serde_json::to_writer(&mut *out, body).is_err() {
        // Nothing that is written here has a form JSON lacks.
        tracing::error!("a chunk could not be written as JSON");
    }
    out.extend_from_slice(b"\n\n");
}

/// A response that streams the events as chunks. An error on the way is an event too, since the status is sent.
///
/// A client that leaves it unread for longer than `max_unread` is cut off.
pub(crate) fn respond(
    events: impl Stream<Item = Result<Event, RequestError>> + Send + 'static,
    chunks: Chunks,
    max_unread: Duration,
) -> Response {
    let sender = Sender::new(events, chunks, KEEP_ALIVE);
    let bytes = futures::stream::unfold(sender, |mut sender| async move {
        let bytes = sender.next().await?;
        Some((Ok::<_, Infallible>(bytes), sender))
    });
    let mut response = Response::new(Body::new(Watched::new(Body::from_stream(bytes), max_unread)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Sender {
    events: Pin<Box<dyn Stream<Item = Result<Event, RequestError>> + Send>>,
    chunks: Chunks,
    quiet: Pin<Box<Sleep>>,
    keep_alive: Duration,
    spoke: Instant,
    done: bool,
}

impl Sender {
    fn new(
        events: impl Stream<Item = Result<Event, RequestError>> + Send + 'static,
        chunks: Chunks,
        keep_alive: Duration,
    ) -> Self {
        let quiet = Box::pin(sleep(keep_alive));
        Self { events: Box::pin(events), chunks, quiet, keep_alive, spoke: Instant::now(), done: false }
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        loop {
            let mut out = Vec::with_capacity(512);
            tokio::select! {
                biased;
                event = self.events.next() => self.write(event, &mut out),
                // The timer is set anew only when it fires, not for every token.
                () = &mut self.quiet => {
                    let due = self.spoke + self.keep_alive;
                    if due <= Instant::now() {
                        out.extend_from_slice(b": keep-alive\n\n");
                        self.spoke = Instant::now();
                    }
                    self.quiet.as_mut().reset(self.spoke + self.keep_alive);
                }
            }
            for _ in 1..TOGETHER {
                if self.done {
                    break;
                }
                let Some(event) = self.events.next().now_or_never() else { break };
                self.write(event, &mut out);
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }

    fn write(&mut self, event: Option<Result<Event, RequestError>>, out: &mut Vec<u8>) {
        self.spoke = Instant::now();
        match event {
            Some(Ok(event)) => self.chunks.write(&event, out),
            Some(Err(error)) => write_data(&error::body(&error), out),
            None => {
                out.extend_from_slice(b"data: [DONE]\n\n");
                self.done = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Delta,
        http::{
            answer::{Answer, Api},
            sampling::Delivery,
        },
    };

    #[tokio::test]
    async fn a_quiet_stream_is_kept_open_by_comments() {
        let delta = Event::Delta(Delta { text: "Hi".into(), ..Delta::default() });
        let events = futures::stream::once(std::future::ready(Ok(delta))).chain(futures::stream::pending());
        let chunks = Chunks::new(Answer::for_tests(Api::Chat), Delivery::default());
        let mut sender = Sender::new(events, chunks, Duration::from_millis(1));
        assert!(sender.next().await.unwrap().starts_with(b"data: {"));
        for _ in 0..3 {
            assert_eq!(sender.next().await.unwrap(), ": keep-alive\n\n");
        }
    }

    #[tokio::test]
    async fn events_that_are_ready_together_go_out_together_and_nothing_follows_done() {
        let delta = |text: &str| Ok(Event::Delta(Delta { text: text.into(), ..Delta::default() }));
        let events = futures::stream::iter([delta("a"), delta("b"), Err(RequestError::internal("broken"))]);
        let chunks = Chunks::new(Answer::for_tests(Api::Text), Delivery::default());
        let mut sender = Sender::new(events, chunks, KEEP_ALIVE);
        let text = sender.next().await.unwrap();
        let text = str::from_utf8(&text).unwrap();
        assert_eq!(text.matches("data: ").count(), 4);
        assert!(text.contains("broken") && text.ends_with("data: [DONE]\n\n"));
        assert_eq!(sender.next().await, None);
    }
}
