//! The state machine against a model of its own: who holds what, written down by hand.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const COORDINATORS: usize = 3;
const WORKERS: usize = 5;
const TTL_MS: u64 = 1000;

/// What happens. A crash is silence: the coordinator comes back with a new lease, and its old one runs out.
#[derive(Clone, Debug)]
enum Act {
    Claim { coordinator: usize, workers: BTreeSet<usize> },
    Release(usize),
    Crash(usize),
    Leave(usize),
    KeepAlive(usize),
    Pass { ms: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..COORDINATORS;
    prop_oneof![
        4 => (who.clone(), prop::collection::btree_set(0..WORKERS, 1..4))
            .prop_map(|(coordinator, workers)| Act::Claim { coordinator, workers }),
        2 => who.clone().prop_map(Act::Release),
        1 => who.clone().prop_map(Act::Crash),
        1 => who.clone().prop_map(Act::Leave),
        3 => who.prop_map(Act::KeepAlive),
        2 => (1..TTL_MS * 3 / 2).prop_map(|ms| Act::Pass { ms }),
    ]
}

/// One life of a coordinator.
struct Life {
    lease: LeaseId,
    ends: u64,
    holds: BTreeSet<usize>,
}

/// The state machine, and beside it what must be true of it.
struct Run {
    state: State,
    now: u64,
    ended: BTreeSet<LeaseId>,
    lives: Vec<Life>,
    /// Which life each coordinator is in.
    current: [usize; COORDINATORS],
    newest: Revision,
    seen: Vec<Change>,
}

fn key(worker: usize) -> String {
    format!("/claims/{worker}")
}

fn put(key: String, value: &str, lease: LeaseId) -> Write {
    Write::Put { key, value: value.into(), lease }
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            state: State::after(Revision(100)),
            now: 0,
            ended: BTreeSet::new(),
            lives: Vec::new(),
            current: [0; COORDINATORS],
            newest: Revision(100),
            seen: Vec::new(),
        };
        (0..COORDINATORS).for_each(|coordinator| run.begin(coordinator));
        run
    }

    fn time(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    fn begin(&mut self, coordinator: usize) {
        let lease = self.state.grant(self.time(), Duration::from_millis(TTL_MS));
        self.current[coordinator] = self.lives.len();
        self.lives.push(Life { lease, ends: self.now + TTL_MS, holds: BTreeSet::new() });
    }

    fn end(&mut self, over: impl Fn(&Life) -> bool) {
        for life in self.lives.iter_mut().filter(|life| over(life)) {
            life.holds.clear();
            self.ended.insert(life.lease);
        }
    }

    fn held(&self) -> BTreeMap<String, LeaseId> {
        self.lives.iter().flat_map(|life| life.holds.iter().map(|worker| (key(*worker), life.lease))).collect()
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Claim { coordinator, workers } => return self.claim(coordinator, workers),
            Act::Release(coordinator) => {
                let life = &mut self.lives[self.current[coordinator]];
                let writes = std::mem::take(&mut life.holds).into_iter().map(|worker| Write::Delete(key(worker))).collect();
                let (_, changes) = self.state.commit(&[], writes).unwrap().unwrap();
                self.seen.extend(changes);
            }
            Act::Crash(coordinator) => self.begin(coordinator),
            Act::Leave(coordinator) => {
                let lease = self.lives[self.current[coordinator]].lease;
                self.seen.extend(self.state.revoke(lease));
                self.end(|life| life.lease == lease);
                self.begin(coordinator);
            }
            Act::KeepAlive(coordinator) => {
                let now = self.time();
                let life = &mut self.lives[self.current[coordinator]];
                let kept = self.state.keep_alive(now, life.lease);
                prop_assert_eq!(kept.is_err(), self.ended.contains(&life.lease));
                life.ends = self.now + TTL_MS;
            }
            Act::Pass { ms } => {
                self.now += ms;
                let now = self.now;
                self.seen.extend(self.state.expire(Duration::from_millis(now)));
                self.end(|life| life.ends <= now);
            }
        }
        Ok(())
    }

    fn claim(&mut self, coordinator: usize, workers: BTreeSet<usize>) -> Result<(), TestCaseError> {
        let lease = self.lives[self.current[coordinator]].lease;
        let free = workers.iter().all(|worker| !self.held().contains_key(&key(*worker)));
        let conditions: Vec<_> = workers.iter().map(|worker| Compare::Absent(key(*worker))).collect();
        let writes = workers.iter().map(|worker| put(key(*worker), "", lease)).collect();
        match self.state.commit(&conditions, writes) {
            Ok(Some((epoch, changes))) => {
                prop_assert!(free, "a claim of a held worker went through");
                prop_assert!(!self.ended.contains(&lease), "a claim under an ended lease went through");
                prop_assert!(epoch > self.newest, "epoch {epoch:?} is not above {:?}", self.newest);
                self.newest = epoch;
                self.seen.extend(changes);
                self.lives[self.current[coordinator]].holds.extend(workers);
            }
            Ok(None) => prop_assert!(!free, "a claim of free workers was refused"),
            Err(error) => {
                prop_assert_eq!(error, RegistryError::LeaseEnded(lease));
                prop_assert!(self.ended.contains(&lease));
            }
        }
        Ok(())
    }

    /// The state machine holds what the model holds, and watches would have led there.
    fn check(&self) -> Result<(), TestCaseError> {
        let stored: BTreeMap<_, _> = self.state.entries.iter().map(|(key, (_, lease))| (key.clone(), *lease)).collect();
        prop_assert_eq!(stored, self.held());
        prop_assert_eq!(self.state.since("/", Revision(0)).unwrap(), self.seen.clone(), "a change was not remembered");
        let mut replayed = BTreeMap::new();
        for change in self.seen.iter().cloned() {
            match change {
                Change::Put(entry) => drop(replayed.insert(entry.key.clone(), entry)),
                Change::Delete { key, .. } => prop_assert!(replayed.remove(&key).is_some(), "{key} went twice"),
            }
        }
        prop_assert_eq!(replayed.into_values().collect::<Vec<_>>(), self.state.list("/").1);
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_worker_has_two_holders_whatever_crashes_expires_or_is_released(acts in prop::collection::vec(act(), 1..80)) {
        let mut run = Run::new();
        for act in acts {
            run.act(act)?;
            run.check()?;
        }
    }
}

#[test]
fn a_watch_from_before_the_history_is_told_so() {
    let mut state = State::default();
    let lease = state.grant(Duration::ZERO, Duration::from_secs(1));
    for _ in 0..HISTORY + 10 {
        state.commit(&[], vec![put("/a".into(), "", lease)]).unwrap();
    }
    assert_eq!(state.since("/", Revision(5)), Err(RegistryError::Compacted(Revision(5))));
    assert_eq!(state.since("/", Revision(10)).unwrap().len(), HISTORY);
}

#[test]
fn a_transaction_that_changes_nothing_makes_no_revision() {
    let mut state = State::after(Revision(7));
    assert_eq!(state.commit(&[], vec![Write::Delete("/absent".into())]), Ok(Some((Revision(7), vec![]))));
    assert_eq!(state.commit(&[Compare::Exists("/absent".into())], vec![]), Ok(None));
    assert_eq!(state.list("/"), (Revision(7), vec![]));
}

#[test]
fn a_key_put_again_keeps_its_creation_and_takes_the_new_lease() {
    let mut state = State::default();
    let (first, second) =
        (state.grant(Duration::ZERO, Duration::from_secs(1)), state.grant(Duration::ZERO, Duration::from_secs(9)));
    state.commit(&[], vec![put("/a".into(), "old", first)]).unwrap();
    state.commit(&[], vec![put("/a".into(), "new", second)]).unwrap();
    assert_eq!(state.expire(Duration::from_secs(1)), [], "the first lease has no key left");
    let entry = Entry { key: "/a".into(), value: "new".into(), created: Revision(1), modified: Revision(2) };
    assert_eq!(state.list("/"), (Revision(2), vec![entry]));
}
