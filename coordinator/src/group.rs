//! The group of workers a replica drives: chosen, claimed, loaded, run, and let go.

mod choose;
mod claim;
mod codec;
mod degree;
mod doubts;
mod form;
mod load;
mod pace;
mod pulse;
mod request;
mod run;

use tessera_proto::internal as wire;
use tessera_registry::{RegistryError, WorkerRecord};
use tessera_service::reason;
use tessera_types::{Epoch, Rank};
use tonic::{Code, Status, transport::Channel};

pub(crate) use form::{Former, Siblings};
pub(crate) use run::{Group, Loss};

/// A worker with its place in the group.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) rank: Rank,
    pub(crate) worker: WorkerRecord,
    pub(crate) channel: Channel,
    /// Its progress before the group was formed.
    pub(crate) progress: u64,
}

impl Member {
    /// Takes in what its worker says of itself; of one that was named by hand its record tells the address alone.
    fn is(&mut self, status: wire::GetStatusResponse) {
        self.progress = status.progress;
        if !status.device.is_empty() {
            self.worker.device = status.device;
        }
    }
}

/// What a rank did not do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("rank {rank} (worker {worker}): {problem}")]
pub struct RankError {
    /// The rank.
    pub rank: Rank,
    /// Its worker.
    pub worker: String,
    /// What it said, or what was seen.
    pub problem: String,
    /// Its status.
    pub code: Code,
}

impl RankError {
    fn new(member: &Member, status: &Status) -> Self {
        let (rank, worker, problem) = (member.rank, member.worker.id.clone(), reason(status));
        Self { rank, worker, problem, code: status.code() }
    }

    /// Whether another attempt would end alike: the model or the degree is at fault, not the worker.
    fn is_final(&self) -> bool {
        matches!(self.code, Code::InvalidArgument | Code::NotFound | Code::DataLoss | Code::OutOfRange | Code::Unimplemented)
    }
}

/// Why no group was formed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FormError {
    /// Not enough workers are free.
    #[error("{free} of {needed} workers are free")]
    Workers {
        /// Those there are.
        free: usize,
        /// Those needed.
        needed: usize,
    },
    /// The registry did not do what was asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Ranks did not load the model.
    #[error("{}", said(ranks))]
    Load {
        /// Every rank that did not.
        ranks: Vec<RankError>,
    },
    /// A worker has obeyed a newer epoch than this claim's: another coordinator was faster, or the registry was set back,
    /// as by a restored backup; workers that were restarted since obey it again.
    #[error("the claim of epoch {epoch} is not the newest: a worker has seen {newest}")]
    Fenced {
        /// The claim's.
        epoch: Epoch,
        /// The worker's.
        newest: Epoch,
    },
    /// A smaller group than asked for did not load the model; a larger may.
    #[error("a group of {ranks} is too small: {problem}")]
    TooFew {
        /// How many they were.
        ranks: usize,
        /// What they said.
        problem: String,
    },
    /// Ranks loaded different models.
    #[error("ranks disagree on the model's shape: {0}")]
    Shape(String),
    /// A worker's address cannot be used.
    #[error("worker {worker}: {problem}")]
    Address {
        /// The worker.
        worker: String,
        /// What is wrong.
        problem: String,
    },
}

/// What the ranks said; once where all said the same.
fn said(ranks: &[RankError]) -> String {
    match ranks {
        [first, .., _] if ranks.iter().all(|rank| rank.problem == first.problem) => {
            format!("all {} ranks: {}", ranks.len(), first.problem)
        }
        _ => ranks.iter().map(RankError::to_string).collect::<Vec<_>>().join("; "),
    }
}

impl FormError {
    /// Whether another attempt would end alike.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            // One worker may be at fault; that all of them are is unlikely.
            Self::Load { ranks } => ranks.iter().all(RankError::is_final),
            Self::Shape(_) => true,
            Self::Workers { .. } | Self::Registry(_) | Self::Address { .. } | Self::Fenced { .. } | Self::TooFew { .. } => false,
        }
    }

    /// What tells it from other problems, however often it is met: no epochs, which are new each time.
    fn kind(&self) -> String {
        match self {
            Self::Fenced { .. } => "fenced".into(),
            Self::Load { ranks } => ranks.iter().map(|rank| format!("{}: {:?}; ", rank.worker, rank.code)).collect(),
            other => other.to_string(),
        }
    }

    /// Whether more ranks would do.
    fn is_want_of_memory(&self) -> bool {
        matches!(self, Self::Load { ranks } if ranks.iter().any(|rank| rank.code == Code::ResourceExhausted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_of_one_kind_whatever_the_epoch_and_of_another_where_another_worker_has_it() {
        let fenced = |epoch| FormError::Fenced { epoch: Epoch(epoch), newest: Epoch(epoch + 1) };
        let stale = |worker: &str, epoch: u64| {
            let (rank, problem, code) = (Rank(0), format!("epoch {epoch} is over"), Code::FailedPrecondition);
            FormError::Load { ranks: vec![RankError { rank, worker: worker.into(), problem, code }] }
        };
        assert_eq!(fenced(1).kind(), fenced(2).kind());
        assert_eq!(stale("a", 1).kind(), stale("a", 2).kind());
        let kinds =
            [fenced(1), stale("a", 1), stale("b", 1), FormError::Workers { free: 0, needed: 1 }].map(|error| error.kind());
        assert_eq!(kinds.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{kinds:?}");
    }
}
