//! A request's stream on one replica.

use std::{sync::Arc, time::Duration};

use tessera_proto::internal::{GenerateEvent, StopSequenceRequest, generate_event::Event};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::replicas::{Load, Replica};

/// Bound on telling a replica that a sequence is over.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// A request's stream on one replica. Dropping it frees the replica's sequences.
pub(crate) struct Upstream {
    pub(super) replica: Arc<Replica>,
    pub(super) stream: Streaming<GenerateEvent>,
    /// The request's name on the replica, unique to this stream.
    pub(super) id: String,
    /// For each sequence the replica was given, which of the request's it is.
    pub(super) sequences: Vec<usize>,
    /// Tokens to run stand in the replica's account while the stream lives.
    pub(super) _load: Load,
}

impl Upstream {
    /// The next event; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Status> {
        while let Some(message) = self.stream.message().await? {
            if let Some(event) = message.event {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Which of the request's sequences the replica calls `index`.
    pub(super) fn sequence(&self, index: u32) -> Option<usize> {
        self.sequences.get(index as usize).copied()
    }

    /// Where it runs.
    pub(super) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Tells the replica that a sequence's text is over. Nobody waits for the answer: its tokens are dropped anyway.
    pub(super) fn stop(&self, index: u32) {
        let mut client = self.replica.client();
        let request = StopSequenceRequest { request_id: self.id.clone(), index };
        tokio::spawn(async move {
            if let Ok(Err(status)) = timeout(STOP_WAIT, client.stop_sequence(request)).await {
                tracing::debug!(%status, "a replica did not stop a sequence");
            }
        });
    }
}
