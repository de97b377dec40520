//! One request as a client sees it, and all that it may be blamed for.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use tessera_proto::v1::{self, generate_response::Event, inference_client::InferenceClient};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Endpoint};
use tonic_types::StatusExt as _;

use super::pulse::Pulse;

/// A stream without an event for so long hangs: longer than anything that a router waits for.
const HANGS: Duration = Duration::from_secs(90);
/// Connecting to a router that is there.
const CONNECT: Duration = Duration::from_secs(5);

/// All that was told of a request, but for times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// By index.
    pub sequences: BTreeMap<u32, Sequence>,
    /// Tokens, as the usage counts them.
    pub generated: u32,
}

/// All that was told of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The text of all deltas.
    pub text: String,
    /// Bits of the log-probabilities, of chosen tokens and alternatives.
    logprobs: Vec<(u32, u32)>,
    deltas: u64,
    /// Why it ended, and with which seed.
    finished: Option<(i32, u64)>,
}

impl Answer {
    /// Where another answer differs first, in words; `None` where it does not.
    pub fn differs(&self, other: &Self) -> Option<String> {
        for (index, own) in &self.sequences {
            let Some(theirs) = other.sequences.get(index) else { return Some(format!("sequence {index} is missing")) };
            let (expected, got) = (&own.tokens, &theirs.tokens);
            if let Some(at) = (0..expected.len().max(got.len())).find(|&at| expected.get(at) != got.get(at)) {
                let around =
                    |tokens: &[u32]| format!("{:?}", &tokens[at.saturating_sub(3).min(tokens.len())..tokens.len().min(at + 4)]);
                let lengths = (expected.len(), got.len());
                return Some(format!(
                    "token {at} of sequence {index}: {} became {}, lengths {lengths:?}",
                    around(expected),
                    around(got)
                ));
            }
            if own != theirs {
                return Some(format!("sequence {index} has the same tokens, and not the same text, log-probabilities or end"));
            }
        }
        (self != other).then(|| format!("{} tokens became {}", self.generated, other.generated))
    }
}

/// How a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It was not accepted, and nobody said why: there was no connection, or it broke.
    #[error("not reached: {0}")]
    Unreached(String),
    /// It was not accepted, and told when to come back.
    #[error("refused for now: {0}")]
    Later(Box<Status>),
    /// It ended with a reason that a client can act on.
    #[error("ended: {0}")]
    Typed(Box<Status>),
    /// It broke without one.
    #[error("broke: {0}")]
    Untyped(String),
}

/// What watches a stream.
#[derive(Debug, Default)]
pub struct Lives {
    pub(super) pulse: Pulse,
    resumed: AtomicU64,
}

impl Lives {
    /// Tokens that came so far.
    pub fn tokens(&self) -> u64 {
        self.pulse.tokens()
    }

    /// How often it was told that its request goes on after a loss.
    pub fn resumptions(&self) -> u64 {
        self.resumed.load(SeqCst)
    }
}

/// Asks, and reads to the end.
///
/// # Errors
/// How it broke.
pub async fn ask(address: &str, request: &v1::GenerateRequest, lives: &Lives) -> Result<Answer, Broken> {
    let unreached = |error: tonic::transport::Error| Broken::Unreached(format!("{error:?}"));
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(unreached)?.connect_timeout(CONNECT);
    let channel = endpoint.connect().await.map_err(unreached)?;
    let hangs = |_| Broken::Untyped(format!("nothing came for {HANGS:?}"));
    let call = timeout(HANGS, InferenceClient::new(channel).generate(request.clone())).await;
    let mut stream = call.map_err(hangs)?.map_err(|status| broken(status, false))?.into_inner();
    let (mut answer, mut accepted, mut ended) = (Answer::default(), false, false);
    loop {
        let message = timeout(HANGS, stream.message()).await.map_err(hangs)?;
        let Some(response) = message.map_err(|status| broken(status, accepted))? else { break };
        match response.event.ok_or_else(|| Broken::Untyped("an empty event".into()))? {
            Event::Accepted(_) => accepted = true,
            Event::Resumed(_) => {
                lives.resumed.fetch_add(1, SeqCst);
            }
            Event::Delta(delta) => {
                lives.pulse.beat();
                answer.take(delta)?;
            }
            Event::Finished(finished) => {
                answer.sequences.entry(finished.index).or_default().finished = Some((finished.reason, finished.seed));
            }
            Event::Usage(usage) => (answer.generated, ended) = (usage.generated_tokens, true),
        }
    }
    if ended { Ok(answer) } else { Err(Broken::Untyped("the stream ended before its usage".into())) }
}

impl Answer {
    fn take(&mut self, delta: v1::Delta) -> Result<(), Broken> {
        let sequence = self.sequences.entry(delta.index).or_default();
        if delta.seq != sequence.deltas {
            return Err(Broken::Untyped(format!("delta {} of sequence {} came as {}", sequence.deltas, delta.index, delta.seq)));
        }
        sequence.deltas += 1;
        sequence.tokens.extend(delta.token_ids);
        sequence.text.push_str(&delta.text);
        for entry in delta.logprobs {
            sequence.logprobs.push((entry.token_id, entry.logprob.to_bits()));
            sequence.logprobs.extend(entry.top.iter().map(|top| (top.token_id, top.logprob.to_bits())));
        }
        Ok(())
    }
}

/// What a server says on purpose carries details, or a code that only this server gives; a transport's own words do not.
fn broken(status: Status, accepted: bool) -> Broken {
    let typed = status.get_details_retry_info().is_some() || status.code() == Code::DeadlineExceeded;
    let said = || format!("{}: {}", status.code(), status.message());
    match (typed, accepted) {
        (true, false) => Broken::Later(Box::new(status)),
        (true, true) => Broken::Typed(Box::new(status)),
        (false, false) => Broken::Unreached(said()),
        (false, true) => Broken::Untyped(said()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(tokens: &[u32], text: &str) -> Answer {
        let sequence = Sequence { tokens: tokens.to_vec(), text: text.into(), ..Sequence::default() };
        Answer { sequences: [(0, sequence)].into(), generated: tokens.len() as u32 }
    }

    #[test]
    fn a_lost_a_repeated_and_a_changed_token_are_told_with_their_place() {
        let whole = answer(&[1, 2, 3, 4], "abcd");
        assert_eq!(whole.differs(&whole.clone()), None);
        for (tokens, place) in [
            (vec![1, 3, 4], "token 1"),
            (vec![1, 2, 2, 3, 4], "token 2"),
            (vec![1, 2, 3, 9], "token 3"),
            (vec![1, 2, 3], "token 3"),
        ] {
            let told = whole.differs(&answer(&tokens, "abcd")).unwrap();
            assert!(told.starts_with(place), "{tokens:?}: {told}");
        }
        assert!(whole.differs(&answer(&[1, 2, 3, 4], "abbd")).unwrap().contains("text"));
        assert!(whole.differs(&Answer::default()).unwrap().contains("missing"));
    }

    #[test]
    fn a_gap_between_deltas_breaks_a_stream() {
        let mut answer = Answer::default();
        let delta = |seq| v1::Delta { seq, ..v1::Delta::default() };
        assert!(answer.take(delta(0)).is_ok() && answer.take(delta(1)).is_ok());
        assert!(answer.take(delta(3)).is_err() && answer.take(delta(1)).is_err());
    }

    #[test]
    fn a_server_that_says_when_to_come_back_is_told_from_a_connection_that_broke() {
        let later =
            Status::with_error_details(Code::Unavailable, "later", tonic_types::ErrorDetails::with_retry_info(Some(HANGS)));
        assert!(matches!(broken(later.clone(), false), Broken::Later(_)));
        assert!(matches!(broken(later, true), Broken::Typed(_)));
        assert!(matches!(broken(Status::unavailable("h2 protocol error"), true), Broken::Untyped(_)));
        assert!(matches!(broken(Status::unavailable("connection refused"), false), Broken::Unreached(_)));
    }
}
