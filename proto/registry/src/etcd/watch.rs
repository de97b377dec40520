//! Watches that outlive their server.
//!
//! A watch of etcd's ends with the server that it runs on, or when that server loses its leader, and hangs when the
//! link is cut. Each time, the next endpoint is asked for everything after the last revision that the reader was given.

use std::{sync::Arc, time::Duration};

use etcd_client::{EventType, WatchOptions, WatchResponse};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info};

use super::{
    commit::{revision, text},
    failure::Failure,
    pool::Pool,
};
use crate::{
    Change, Entry, RegistryError, Revision, Watch,
    store::{WATCH_BUFFER, tell},
};

/// How often a server that says nothing is asked whether it is there: HTTP/2 pings may not be as frequent.
const PROBE: Duration = Duration::from_secs(1);
/// Questions without an answer after which it is not.
const UNANSWERED: u32 = 2;
/// Pauses between attempts, while all fail.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The largest answer that is read: many changes may come at once after a while away.
const LARGEST: usize = 64 << 20;

/// Why a watch on one server ended.
enum End {
    /// For its reader too.
    Over,
    /// It goes on elsewhere.
    Broken(String),
}

/// Watches until the reader goes; the store may be away, now or later.
pub(super) fn watch(pool: Arc<Pool>, prefix: &str, after: Revision) -> Watch {
    let (reader, watch) = mpsc::channel(WATCH_BUFFER);
    let following = Following { pool, prefix: prefix.to_owned(), last: after, began: false, reader };
    tokio::spawn(following.run());
    watch
}

struct Following {
    pool: Arc<Pool>,
    prefix: String,
    /// The reader has every change up to here.
    last: Revision,
    /// Whether the server that was asked last began the watch.
    began: bool,
    reader: mpsc::Sender<Result<Change, RegistryError>>,
}

impl Following {
    async fn run(mut self) {
        let reader = self.reader.clone();
        let mut endpoint = self.pool.preferred();
        let mut pause = PAUSE.0;
        loop {
            let end = tokio::select! {
                () = reader.closed() => return,
                end = self.follow(endpoint) => end,
            };
            let End::Broken(problem) = end else { return };
            if std::mem::take(&mut self.began) {
                info!(problem, prefix = self.prefix, "a watch moves to another endpoint");
                pause = PAUSE.0;
            } else {
                debug!(problem, prefix = self.prefix, "a watch could not begin");
            }
            endpoint = self.pool.after(endpoint);
            tokio::select! {
                () = reader.closed() => return,
                () = sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }

    /// Follows the changes on one endpoint until that ends.
    async fn follow(&mut self, endpoint: usize) -> End {
        let options = WatchOptions::new().with_prefix().with_start_revision(self.last.0 as i64 + 1);
        let prefix = self.prefix.clone();
        let begin = self.pool.attempt(endpoint, |client| async move {
            client.watch_client().max_decoding_message_size(LARGEST).watch(prefix, Some(options)).await
        });
        let stream = match begin.await {
            Ok(stream) => stream,
            Err(Failure::Denied(problem)) => return self.refuse(RegistryError::Denied(problem)),
            Err(failure) => return End::Broken(failure.into_error(None).to_string()),
        };
        self.began = true;
        let (mut questions, mut answers) = stream.split();
        let mut probe = interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0;
        loop {
            tokio::select! {
                answer = answers.message() => {
                    unanswered = 0;
                    match answer {
                        Ok(Some(answer)) => {
                            if let Some(end) = self.take(&answer) {
                                return end;
                            }
                        }
                        Ok(None) => return End::Broken("the server ended the watch".into()),
                        Err(error) => return End::Broken(self.pool.failure(&error).into_error(None).to_string()),
                    }
                }
                _ = probe.tick() => {
                    if unanswered == UNANSWERED {
                        self.pool.forget(endpoint);
                        return End::Broken("the server fell silent".into());
                    }
                    // Its answer shows only that the server is there. Servers of version 3.4 may send it before changes
                    // that it says to be over, so it does not tell from where to go on.
                    if questions.request_progress().await.is_err() {
                        return End::Broken("the server ended the watch".into());
                    }
                    unanswered += 1;
                }
            }
        }
    }

    /// Gives the changes to the reader.
    fn take(&mut self, answer: &WatchResponse) -> Option<End> {
        if answer.compact_revision() > 0 {
            return Some(self.refuse(RegistryError::Compacted(self.last)));
        }
        if answer.canceled() {
            let reason = answer.cancel_reason().to_owned();
            let denied = reason.contains("permission denied");
            return Some(if denied { self.refuse(RegistryError::Denied(reason)) } else { End::Broken(reason) });
        }
        let before = self.last;
        for event in answer.events() {
            let Some(pair) = event.kv() else { continue };
            let modified = revision(pair.mod_revision());
            // A revision comes whole, in one answer, so nothing up to the last one is missing.
            if modified <= before {
                continue;
            }
            self.last = self.last.max(modified);
            let key = text(pair.key());
            let change = match event.event_type() {
                EventType::Put => {
                    let (value, created) = (text(pair.value()), revision(pair.create_revision()));
                    Change::Put(Entry { key, value, created, modified })
                }
                EventType::Delete => Change::Delete { key, revision: modified },
            };
            if !tell(&self.reader, change) {
                return Some(End::Over);
            }
        }
        None
    }

    /// Tells the reader why the watch is over.
    fn refuse(&self, error: RegistryError) -> End {
        // The last place is free for it.
        let _ = self.reader.try_send(Err(error));
        End::Over
    }
}
