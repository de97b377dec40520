//! Two coordinators never drive one worker: claims, epochs and workers that obey the newest, over random interleavings of
//! pauses, crashes, leases that end, and messages that are lost, late, repeated and out of order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const COORDINATORS: usize = 3;
const WORKERS: usize = 4;
const DEGREE: usize = 2;
const TTL: Duration = Duration::from_millis(1000);

#[derive(Clone, Debug)]
enum Act {
    /// Claims the first free workers from this one on, whatever else the coordinator believes to hold.
    Claim(usize, usize),
    /// Keeps its lease alive; a coordinator that does not for long is paused, dead, or cut off, and may yet speak.
    KeepAlive(usize),
    /// Tells the workers of the last group it claimed to load.
    Load(usize),
    /// Sends them a plan.
    Plan(usize),
    /// Claims the same workers again after its lease has ended, and goes on under the old epoch.
    Reclaim(usize),
    /// A message under way arrives; it may arrive again.
    Deliver(usize, bool),
    Lose(usize),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..COORDINATORS;
    prop_oneof![
        4 => (who.clone(), 0..WORKERS).prop_map(|(who, from)| Act::Claim(who, from)),
        3 => who.clone().prop_map(Act::KeepAlive),
        4 => who.clone().prop_map(Act::Load),
        6 => who.clone().prop_map(Act::Plan),
        2 => who.prop_map(Act::Reclaim),
        16 => (0..64usize, any::<bool>()).prop_map(|(at, again)| Act::Deliver(at, again)),
        1 => (0..64usize).prop_map(Act::Lose),
        3 => (1..1500u64).prop_map(Act::Pass),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Load { worker: usize, epoch: u64 },
    Plan { worker: usize, epoch: u64 },
}

/// A group as the coordinator that claimed it believes in it.
#[derive(Clone, Debug)]
struct Group {
    epoch: u64,
    workers: Vec<usize>,
}

#[derive(Default)]
struct Run {
    state: State,
    now: Duration,
    leases: BTreeMap<usize, LeaseId>,
    groups: BTreeMap<usize, Group>,
    network: Vec<Message>,
    /// The newest epoch of each worker: all that a worker knows (tessera-shard-worker's fence).
    newest: [u64; WORKERS],
    /// The epochs of the steps that each worker ran, in order.
    ran: [Vec<u64>; WORKERS],
    /// The workers of each epoch.
    members: BTreeMap<u64, Vec<usize>>,
}

fn key(worker: usize) -> String {
    format!("/claims/{worker}")
}

impl Run {
    fn claim(&mut self, who: usize, workers: &[usize]) -> Option<u64> {
        let lease = self.state.grant(self.now, TTL);
        let conditions: Vec<_> = workers.iter().map(|worker| Compare::Absent(key(*worker))).collect();
        let put = |worker: &usize| Write::Put { key: key(*worker), value: who.to_string(), lease };
        let (revision, _) = self.state.commit(&conditions, workers.iter().map(put).collect()).unwrap()?;
        self.leases.insert(who, lease);
        Some(revision.0)
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Claim(who, from) => {
                let taken: BTreeSet<_> = self.state.list("/claims/").1.into_iter().map(|entry| entry.key).collect();
                let free = (0..WORKERS).map(|i| (from + i) % WORKERS).filter(|worker| !taken.contains(&key(*worker)));
                let workers: Vec<_> = free.take(DEGREE).collect();
                if workers.len() == DEGREE
                    && let Some(epoch) = self.claim(who, &workers)
                {
                    assert!(self.members.keys().all(|older| *older < epoch), "epochs grow");
                    self.members.insert(epoch, workers.clone());
                    self.groups.insert(who, Group { epoch, workers });
                }
            }
            Act::Reclaim(who) => {
                let Some(group) = self.groups.get(&who).cloned() else { return };
                self.claim(who, &group.workers);
            }
            Act::KeepAlive(who) => {
                if let Some(lease) = self.leases.get(&who) {
                    let _ = self.state.keep_alive(self.now, *lease);
                }
            }
            Act::Load(who) => {
                let Some(Group { epoch, workers }) = self.groups.get(&who).cloned() else { return };
                self.network.extend(workers.into_iter().map(|worker| Message::Load { worker, epoch }));
            }
            Act::Plan(who) => {
                let Some(Group { epoch, workers }) = self.groups.get(&who).cloned() else { return };
                self.network.extend(workers.into_iter().map(|worker| Message::Plan { worker, epoch }));
            }
            Act::Deliver(at, again) if !self.network.is_empty() => {
                let at = at % self.network.len();
                let message = if again { self.network[at] } else { self.network.swap_remove(at) };
                self.arrive(message);
            }
            Act::Lose(at) if !self.network.is_empty() => drop(self.network.swap_remove(at % self.network.len())),
            Act::Deliver(..) | Act::Lose(_) => {}
            Act::Pass(ms) => {
                self.now += Duration::from_millis(ms);
                self.state.expire(self.now);
            }
        }
    }

    fn arrive(&mut self, message: Message) {
        match message {
            Message::Load { worker, epoch } => self.newest[worker] = self.newest[worker].max(epoch),
            Message::Plan { worker, epoch } if self.newest[worker] == epoch => self.ran[worker].push(epoch),
            Message::Plan { .. } => {}
        }
    }

    fn check(&self) {
        for worker in 0..WORKERS {
            let ran = &self.ran[worker];
            assert!(ran.is_sorted(), "worker {worker} went back to an older group: {ran:?}");
            assert!(ran.iter().all(|epoch| self.members[epoch].contains(&worker)), "only a group's workers run its steps");
        }
        // Nobody takes a worker from the group that holds its claim: not the late words of those that held it before.
        for entry in self.state.list("/claims/").1 {
            let Some(members) = self.members.get(&entry.created.0) else { continue };
            let newest = members.iter().filter(|worker| key(**worker) == entry.key).map(|worker| self.newest[*worker]);
            assert!(newest.into_iter().all(|newest| newest <= entry.created.0), "{} obeys an epoch above its claim's", entry.key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_worker_never_goes_back_and_is_never_taken_from_who_holds_it(acts in prop::collection::vec(act(), 1..120)) {
        let mut run = Run::default();
        for act in acts {
            run.act(act);
            run.check();
        }
    }
}
