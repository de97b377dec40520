//! What can happen to a fleet, and how it ends.

use std::{fmt, time::Duration};

use anyhow::Result;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tessera_test_etcd::LinkState;

use crate::{fleet::Fleet, network::Cable};

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9` of a process.
    Kill(String),
    /// SIGSTOP of a worker.
    Stop(String),
    /// SIGTERM of a process.
    Terminate(String),
    /// `tessera drain` of a worker or a replica.
    Drain(String),
    /// A worker is cut off from everybody.
    Cut(String, LinkState),
    /// The cable of a worker's host fails.
    Unplug(String, Cable),
    /// A node of etcd is killed.
    Node(usize),
    /// All of etcd is killed.
    Away,
}

/// Draws a fault of one kind; the number is etcd's leader.
type Kind = fn(&mut StdRng, &Subjects, usize) -> Option<Fault>;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(name) => write!(f, "kill -9 {name}"),
            Self::Stop(name) => write!(f, "SIGSTOP {name}"),
            Self::Terminate(name) => write!(f, "SIGTERM {name}"),
            Self::Drain(name) => write!(f, "drain {name}"),
            Self::Cut(name, state) => write!(f, "link of {name} {state:?}"),
            Self::Unplug(name, cable) => write!(f, "cable of {name} {cable:?}"),
            Self::Node(node) => write!(f, "etcd node {node} killed"),
            Self::Away => write!(f, "etcd away"),
        }
    }
}

impl Fault {
    /// Any fault that `subjects` has left somebody for.
    pub(super) fn draw(random: &mut StdRng, left: &Subjects, leader: usize) -> Option<Self> {
        let kinds: [(u32, Kind); 10] = [
            (6, |random, left, _| Some(Self::Kill(pick(random, &left.workers)?))),
            (3, |random, left, _| Some(Self::Kill(pick(random, &left.coordinators)?))),
            (2, |random, left, _| Some(Self::Kill(pick(random, &left.routers)?))),
            (4, |random, left, _| Some(Self::Stop(pick(random, &left.workers)?))),
            (3, |random, left, _| {
                let states = [LinkState::Silent, LinkState::Deaf, LinkState::Closed];
                Some(Self::Cut(pick(random, &left.linked)?, *states.choose(random)?))
            }),
            (3, |random, left, _| {
                let ways = if left.filter { &[Cable::Pulled, Cable::Deaf, Cable::Mute][..] } else { &[Cable::Pulled] };
                Some(Self::Unplug(pick(random, &left.hosts)?, *ways.choose(random)?))
            }),
            (2, |random, left, _| Some(Self::Drain(pick(random, &left.drainable())?))),
            (2, |random, left, _| Some(Self::Terminate(pick(random, &left.processes())?))),
            (3, |random, left, leader| {
                let node = if random.random_bool(0.5) { leader } else { random.random_range(0..3) };
                left.etcd.then_some(Self::Node(node))
            }),
            (1, |_, left, _| left.etcd.then_some(Self::Away)),
        ];
        let (_, kind) = kinds.choose_weighted(random, |(weight, _)| *weight).ok()?;
        kind(random, left, leader)
    }

    /// Who is not there until it is over.
    pub(super) fn subject(&self) -> &str {
        match self {
            Self::Kill(name) | Self::Stop(name) | Self::Terminate(name) | Self::Drain(name) => name,
            Self::Cut(name, _) | Self::Unplug(name, _) => name,
            Self::Node(_) | Self::Away => "etcd",
        }
    }

    /// How long it lasts; a process that leaves by itself may take longer.
    pub(super) fn lasts(&self, random: &mut StdRng) -> Duration {
        let seconds = match self {
            Self::Kill(_) | Self::Terminate(_) | Self::Drain(_) => random.random_range(0.2..2.0),
            Self::Stop(_) | Self::Cut(..) | Self::Unplug(..) => random.random_range(0.2..5.0),
            Self::Node(_) => random.random_range(0.5..3.0),
            Self::Away => 5.0,
        };
        Duration::from_secs_f64(seconds)
    }

    pub(super) async fn begin(&self, fleet: &mut Fleet) -> Result<()> {
        match self {
            Self::Kill(name) => fleet.kill(name),
            Self::Stop(name) => fleet.pause(name),
            Self::Terminate(name) => fleet.terminate(name),
            Self::Drain(name) => {
                // It may have been started a moment ago.
                fleet.wait_for("record of it", |status| status.knows(name)).await?;
                fleet.ask_to_leave(name)
            }
            Self::Cut(name, state) => fleet.link(name, *state),
            Self::Unplug(name, cable) => fleet.cable(name, *cable),
            Self::Node(node) => {
                fleet.etcd.kill(*node);
                Ok(())
            }
            Self::Away => {
                (0..fleet.etcd.len()).for_each(|node| fleet.etcd.kill(node));
                Ok(())
            }
        }
    }

    pub(super) async fn end(&self, fleet: &mut Fleet) -> Result<()> {
        match self {
            Self::Kill(name) => fleet.launch(name),
            Self::Stop(name) => fleet.resume(name),
            Self::Terminate(name) | Self::Drain(name) => {
                fleet.ended(name).await?;
                fleet.launch(name)
            }
            Self::Cut(name, _) => fleet.link(name, LinkState::Whole),
            Self::Unplug(name, _) => fleet.cable(name, Cable::Whole),
            Self::Node(node) => {
                fleet.etcd.restart(*node);
                fleet.etcd.ready().await;
                Ok(())
            }
            Self::Away => {
                (0..fleet.etcd.len()).for_each(|node| fleet.etcd.restart(node));
                fleet.etcd.ready().await;
                Ok(())
            }
        }
    }
}

/// Who may be struck now.
#[derive(Clone, Debug, Default)]
pub(super) struct Subjects {
    pub(super) workers: Vec<String>,
    pub(super) linked: Vec<String>,
    pub(super) hosts: Vec<String>,
    /// Whether cables may fail one way.
    pub(super) filter: bool,
    pub(super) coordinators: Vec<String>,
    pub(super) routers: Vec<String>,
    pub(super) etcd: bool,
}

impl Subjects {
    /// Whoever is registered; to be found, etcd must be there.
    fn drainable(&self) -> Vec<String> {
        if self.etcd { [&self.workers[..], &self.coordinators].concat() } else { Vec::new() }
    }

    fn processes(&self) -> Vec<String> {
        [&self.workers[..], &self.coordinators, &self.routers].concat()
    }
}

fn pick(random: &mut StdRng, names: &[String]) -> Option<String> {
    names.choose(random).cloned()
}
