//! Which free workers make the next group, and in which order.

use std::collections::BTreeMap;

use tessera_registry::{Membership, WorkerRecord, WorkerState};
use tessera_types::Fnv1a;

/// What a replica knows when it chooses.
#[derive(Debug, Default)]
pub(super) struct Experience {
    /// Workers of the last group, by rank. They hold their slices.
    pub(super) ranks: Vec<String>,
    /// Workers that failed lately: they come last, and of them whoever failed last.
    pub(super) doubtful: Vec<String>,
    /// What a worker says of itself when it holds a rank's slice, by rank.
    pub(super) wanted: Vec<String>,
    /// The replica, where there are others: of equals each prefers different ones, so that many can choose at once.
    pub(super) among: Option<String>,
}

impl Experience {
    /// Whether the worker need not read the rank's weights.
    fn holds(&self, worker: &WorkerRecord, rank: usize) -> bool {
        match (&worker.fingerprint, self.wanted.get(rank)) {
            (Some(held), Some(wanted)) => held == wanted,
            _ => self.ranks.get(rank) == Some(&worker.id),
        }
    }

    /// Lesser is better.
    fn preference<'a>(&self, worker: &'a WorkerRecord) -> impl Ord + use<'a> {
        let doubt = self.doubtful.iter().position(|id| *id == worker.id);
        let holds = (0..self.wanted.len().max(self.ranks.len())).any(|rank| self.holds(worker, rank));
        // Who holds what nobody here wants may be wanted elsewhere.
        let foreign = worker.fingerprint.is_some();
        (doubt, !holds, foreign, self.among.as_ref().map(|replica| affinity(replica, &worker.id)), worker.id.as_str())
    }
}

/// Picks `tp` free workers in rank order: reliable before doubtful, of one host if one has enough, and for each rank
/// one that holds its slice if there is one. `Err` with how many there are when they are too few.
pub(super) fn choose(members: &Membership, tp: usize, experience: &Experience) -> Result<Vec<WorkerRecord>, usize> {
    let ready = members.free_workers().filter(|worker| worker.state == WorkerState::Ready);
    let mut free: Vec<_> = ready.collect();
    free.sort_by_key(|worker| experience.preference(worker));
    let free = of_one_device(free, tp);
    if free.len() < tp {
        return Err(free.len());
    }
    let reliable: Vec<_> = free.iter().copied().filter(|worker| !experience.doubtful.contains(&worker.id)).collect();
    // No more of the doubtful than it takes; none of them comes before a reliable one, whatever it holds.
    let pool = if reliable.len() >= tp { reliable } else { free[..tp].to_vec() };
    let pool = one_host(&pool, tp, experience).unwrap_or(pool);
    Ok(by_rank(&pool, tp, experience))
}

/// Ranks that compute alike: the workers of the best one's device, or of the next that has enough.
fn of_one_device(workers: Vec<&WorkerRecord>, tp: usize) -> Vec<&WorkerRecord> {
    let devices = workers.iter().map(|worker| device(worker));
    let count = |wanted: &str| workers.iter().filter(|worker| device(worker) == wanted).count();
    let Some(wanted) = devices.clone().find(|device| count(device) >= tp).or(devices.max_by_key(|device| count(device))) else {
        return workers;
    };
    workers.iter().copied().filter(|worker| device(worker) == wanted).collect()
}

/// What ranks must have in common: of a GPU, `cuda:0 (NVIDIA H100)`, not which one of its host it is.
fn device(worker: &WorkerRecord) -> &str {
    let model = || worker.device.split_once(' ').map_or("cuda", |(_, model)| model);
    if worker.device_kind() == "cuda" { model() } else { &worker.device }
}

/// The workers of the host that has enough and holds most; of equals, the host of the best worker.
fn one_host<'a>(pool: &[&'a WorkerRecord], tp: usize, experience: &Experience) -> Option<Vec<&'a WorkerRecord>> {
    let mut hosts: BTreeMap<&str, (usize, Vec<&WorkerRecord>)> = BTreeMap::new();
    for (place, worker) in pool.iter().enumerate() {
        hosts.entry(&worker.host).or_insert((place, Vec::new())).1.push(worker);
    }
    let held =
        |workers: &[&WorkerRecord]| (0..tp).filter(|&rank| workers.iter().any(|worker| experience.holds(worker, rank))).count();
    let enough = hosts.into_values().filter(|(_, workers)| workers.len() >= tp);
    enough.min_by_key(|(place, workers)| (tp - held(workers), *place)).map(|(_, workers)| workers)
}

/// Gives each rank a worker that holds its slice, and the ranks that are left the best of the others.
fn by_rank(pool: &[&WorkerRecord], tp: usize, experience: &Experience) -> Vec<WorkerRecord> {
    let mut pool = pool.to_vec();
    let mut take = |wanted: &dyn Fn(&WorkerRecord) -> bool| {
        let at = pool.iter().position(|worker| wanted(worker))?;
        Some(pool.remove(at))
    };
    let holders: Vec<_> = (0..tp).map(|rank| take(&|worker| experience.holds(worker, rank))).collect();
    holders.into_iter().filter_map(|holder| holder.or_else(|| take(&|_| true))).cloned().collect()
}

/// A number that only the two names decide.
fn affinity(replica: &str, worker: &str) -> u64 {
    Fnv1a::default().and(replica.as_bytes()).and(&[0]).and(worker.as_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_registry::ClaimRecord;

    fn members(workers: &[(&str, &str, Option<&str>)]) -> Membership {
        let mut members = Membership::default();
        for (id, host, fingerprint) in workers {
            let record = WorkerRecord {
                id: (*id).into(),
                address: format!("http://{id}:1"),
                device: "cpu".into(),
                memory_bytes: 0,
                host: (*host).into(),
                fingerprint: fingerprint.map(str::to_owned),
                state: WorkerState::Ready,
                instance: 0,
            };
            members.workers.insert(record.id.clone(), record);
        }
        members
    }

    fn ids(chosen: Result<Vec<WorkerRecord>, usize>) -> Result<Vec<String>, usize> {
        chosen.map(|workers| workers.into_iter().map(|worker| worker.id).collect())
    }

    #[test]
    fn claimed_and_draining_workers_do_not_count() {
        let mut members = members(&[("a", "x", None), ("b", "x", None), ("c", "x", None)]);
        members.claims.insert("a".into(), ClaimRecord { replica: "other".into() });
        members.workers.get_mut("b").unwrap().state = WorkerState::Draining;
        assert_eq!(ids(choose(&members, 2, &Experience::default())), Err(1));
        assert_eq!(ids(choose(&members, 1, &Experience::default())).unwrap(), ["c"]);
    }

    #[test]
    fn a_host_with_enough_workers_goes_before_a_mix() {
        let members = members(&[("a", "x", None), ("b", "y", None), ("c", "y", None)]);
        assert_eq!(ids(choose(&members, 2, &Experience::default())).unwrap(), ["b", "c"]);
        assert_eq!(ids(choose(&members, 3, &Experience::default())).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn gpus_of_one_host_make_a_group() {
        let mut members = members(&[("a", "x", None), ("b", "x", None), ("c", "x", None)]);
        members.workers.get_mut("a").unwrap().device = "cuda:1 (NVIDIA H100)".into();
        members.workers.get_mut("c").unwrap().device = "cuda:0 (NVIDIA H100)".into();
        assert_eq!(ids(choose(&members, 2, &Experience::default())).unwrap(), ["a", "c"]);
        members.workers.get_mut("c").unwrap().device = "cuda:0 (NVIDIA A100)".into();
        assert_eq!(ids(choose(&members, 2, &Experience::default())), Err(1), "those compute other sums");
    }

    #[test]
    fn ranks_of_one_group_compute_on_one_kind_of_device() {
        let mut members = members(&[("a", "x", None), ("b", "x", None), ("c", "x", None)]);
        members.workers.get_mut("a").unwrap().device = "sim:h100".into();
        assert_eq!(ids(choose(&members, 2, &Experience::default())).unwrap(), ["b", "c"]);
        assert_eq!(ids(choose(&members, 3, &Experience::default())), Err(2));
    }

    #[test]
    fn each_rank_gets_a_worker_that_holds_its_slice() {
        let members = members(&[
            ("a", "x", Some("m rank 0")),
            ("b", "x", Some("m rank 1")),
            ("c", "x", Some("m rank 0")),
            ("d", "x", None),
            ("e", "x", Some("other rank 0")),
        ]);
        let wanted = vec!["m rank 0".to_owned(), "m rank 1".to_owned()];
        let experience = Experience { wanted, ..Experience::default() };
        let chosen = ids(choose(&members, 2, &experience)).unwrap();
        assert!(["a", "c"].contains(&chosen[0].as_str()), "{chosen:?}");
        assert_eq!(chosen[1], "b", "two that hold rank 0 would leave one to read");
    }

    #[test]
    fn who_holds_nothing_is_rather_taken_than_who_holds_another_model() {
        let members = members(&[("a", "x", Some("other rank 0")), ("b", "x", None), ("c", "x", Some("other rank 1"))]);
        assert_eq!(ids(choose(&members, 1, &Experience::default())).unwrap(), ["b"]);
    }

    #[test]
    fn survivors_keep_their_ranks_and_a_spare_fills_the_gap() {
        let members = members(&[("a", "x", None), ("b", "x", None), ("c", "x", None)]);
        let ranks = vec!["b".into(), "c".into()];
        let experience = Experience { ranks, doubtful: vec!["b".into()], ..Experience::default() };
        assert_eq!(ids(choose(&members, 2, &experience)).unwrap(), ["a", "c"]);
        assert_eq!(ids(choose(&members, 3, &experience)).unwrap(), ["b", "c", "a"], "better a doubtful one than none");
    }

    #[test]
    fn of_doubtful_workers_whoever_failed_last_comes_last() {
        let members = members(&[("a", "x", None), ("b", "x", None), ("c", "x", None)]);
        let ranks = vec!["a".into(), "c".into()];
        let experience = Experience { ranks, doubtful: vec!["b".into(), "a".into()], ..Experience::default() };
        assert_eq!(ids(choose(&members, 2, &experience)).unwrap(), ["b", "c"]);
    }

    #[test]
    fn replicas_that_choose_at_once_seldom_want_the_same() {
        let names: Vec<String> = (0..40).map(|n| format!("worker-{n}")).collect();
        let workers: Vec<_> = names.iter().map(|name| (name.as_str(), "x", None)).collect();
        let members = members(&workers);
        let firsts: std::collections::BTreeSet<_> = (0..10)
            .map(|n| Experience { among: Some(format!("replica-{n}")), ..Experience::default() })
            .map(|experience| ids(choose(&members, 1, &experience)).unwrap().remove(0))
            .collect();
        assert!(firsts.len() >= 6, "{firsts:?}");
    }
}
