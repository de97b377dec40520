//! Workers that failed lately: others are chosen first.

use std::time::{Duration, Instant};

use tessera_registry::{Membership, WorkerRecord};

/// How long a worker that failed is doubtful: longer than its lease, if it is dead.
const DOUBT: Duration = Duration::from_secs(15);

/// Workers that failed, the last to fail at the end.
#[derive(Default)]
pub(super) struct Doubts(Vec<Failed>);

struct Failed {
    worker: String,
    /// One that was started anew since is another worker of the same name.
    instance: u64,
    since: Instant,
}

impl Failed {
    fn is_recent(&self, now: Instant) -> bool {
        now.duration_since(self.since) < DOUBT
    }
}

impl Doubts {
    /// Notes that workers failed at `now`.
    pub(super) fn note(&mut self, workers: impl IntoIterator<Item = String>, members: Option<&Membership>, now: Instant) {
        let workers: Vec<_> = workers.into_iter().collect();
        self.0.retain(|failed| failed.is_recent(now) && !workers.contains(&failed.worker));
        let instance =
            |worker: &String| members.and_then(|members| members.workers.get(worker)).map_or(0, |record| record.instance);
        self.0.extend(workers.into_iter().map(|worker| Failed { instance: instance(&worker), worker, since: now }));
    }

    /// Whether a worker failed lately.
    pub(super) fn doubts(&self, worker: &WorkerRecord, now: Instant) -> bool {
        let is = |failed: &Failed| failed.worker == worker.id && failed.instance == worker.instance;
        self.0.iter().any(|failed| is(failed) && failed.is_recent(now))
    }

    /// The names of the members that failed lately, the last to fail at the end.
    pub(super) fn among(&self, members: &Membership, now: Instant) -> Vec<String> {
        let doubtful =
            self.0.iter().filter(|failed| members.workers.get(&failed.worker).is_some_and(|worker| self.doubts(worker, now)));
        doubtful.map(|failed| failed.worker.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_registry::WorkerState;

    fn members(workers: &[(&str, u64)]) -> Membership {
        let mut members = Membership::default();
        for &(id, instance) in workers {
            let (id, state) = (id.to_owned(), WorkerState::Ready);
            let (address, device, host) = (format!("http://{id}:1"), "cpu".into(), "x".into());
            let record =
                WorkerRecord { id: id.clone(), address, device, memory_bytes: 0, host, fingerprint: None, state, instance };
            members.workers.insert(id, record);
        }
        members
    }

    #[test]
    fn a_worker_that_failed_is_doubtful_for_a_while_whether_or_not_others_fail_meanwhile() {
        let (members, start) = (members(&[("a", 1), ("b", 1)]), Instant::now());
        let mut doubts = Doubts::default();
        let at = |second| start + Duration::from_secs(second);
        doubts.note(["a".to_owned()], Some(&members), at(0));
        doubts.note(["b".to_owned()], Some(&members), at(10));
        assert_eq!(doubts.among(&members, at(14)), ["a", "b"]);
        assert!(!doubts.doubts(&members.workers["a"], at(15)), "nothing need be noted for time to pass");
        assert_eq!(doubts.among(&members, at(15)), ["b"]);
        doubts.note(["a".to_owned()], Some(&members), at(16));
        assert_eq!(doubts.among(&members, at(17)), ["b", "a"], "who failed last comes last");
    }

    #[test]
    fn a_worker_that_was_started_anew_is_not_doubtful() {
        let (before, after, now) = (members(&[("a", 1)]), members(&[("a", 2)]), Instant::now());
        let mut doubts = Doubts::default();
        doubts.note(["a".to_owned()], Some(&before), now);
        assert!(doubts.doubts(&before.workers["a"], now) && !doubts.doubts(&after.workers["a"], now));
        assert!(doubts.among(&after, now).is_empty());
    }
}
