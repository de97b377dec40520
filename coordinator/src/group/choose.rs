//! Which free workers make the next group, and in which order.

use std::collections::{BTreeMap, HashSet};

use tessera_registry::{Membership, WorkerRecord, WorkerState};

/// What earlier groups teach about workers.
#[derive(Debug, Default)]
pub(super) struct Experience {
    /// Workers of the last group, by rank. They hold their slices.
    pub(super) ranks: Vec<String>,
    /// Workers that failed lately: they come last, and of them whoever failed last.
    pub(super) doubtful: Vec<String>,
}

/// Picks `tp` free workers in rank order: reliable before doubtful, of one host if one has enough, those that hold
/// weights first. Who had a rank before has it again. `Err` with how many there are when they are too few.
pub(super) fn choose(members: &Membership, tp: usize, experience: &Experience) -> Result<Vec<WorkerRecord>, usize> {
    let ready = members.free_workers().filter(|worker| worker.state == WorkerState::Ready);
    let mut free: Vec<_> = ready.collect();
    if free.len() < tp {
        return Err(free.len());
    }
    free.sort_by_key(|worker| preference(worker, experience));
    let reliable: Vec<_> = free.iter().copied().filter(|worker| !experience.doubtful.contains(&worker.id)).collect();
    let pool = if reliable.len() >= tp { reliable } else { free };
    let chosen = one_host(&pool, tp).unwrap_or_else(|| pool[..tp].to_vec());
    Ok(by_rank(chosen, experience))
}

/// Lesser is better.
fn preference<'a>(worker: &'a WorkerRecord, experience: &Experience) -> impl Ord + use<'a> {
    let held = experience.ranks.contains(&worker.id);
    let fingerprint = worker.fingerprint.as_deref();
    let doubt = experience.doubtful.iter().position(|id| *id == worker.id);
    (doubt, !held, fingerprint.is_none(), fingerprint, worker.id.as_str())
}

/// The best `tp` of the host whose best worker is best.
fn one_host<'a>(pool: &[&'a WorkerRecord], tp: usize) -> Option<Vec<&'a WorkerRecord>> {
    let mut hosts: BTreeMap<&str, Vec<(usize, &WorkerRecord)>> = BTreeMap::new();
    for (place, worker) in pool.iter().enumerate() {
        hosts.entry(&worker.host).or_default().push((place, worker));
    }
    let enough = hosts.into_values().filter(|workers| workers.len() >= tp);
    let best = enough.min_by_key(|workers| workers[0].0)?;
    Some(best[..tp].iter().map(|(_, worker)| *worker).collect())
}

/// Gives those that had a rank the same again, and the others what is left, in order.
fn by_rank(chosen: Vec<&WorkerRecord>, experience: &Experience) -> Vec<WorkerRecord> {
    let mut ranks: Vec<Option<&WorkerRecord>> = vec![None; chosen.len()];
    let (mut placed, mut others) = (HashSet::new(), Vec::new());
    for worker in chosen {
        match experience.ranks.iter().position(|id| *id == worker.id) {
            Some(rank) if rank < ranks.len() && placed.insert(rank) => ranks[rank] = Some(worker),
            _ => others.push(worker),
        }
    }
    let mut others = others.into_iter();
    ranks.into_iter().filter_map(|rank| rank.or_else(|| others.next())).cloned().collect()
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
    fn a_worker_that_holds_weights_is_taken_first() {
        let members = members(&[("a", "x", None), ("b", "x", Some("m rank 1")), ("c", "x", Some("m rank 0"))]);
        assert_eq!(ids(choose(&members, 2, &Experience::default())).unwrap(), ["c", "b"]);
    }

    #[test]
    fn survivors_keep_their_ranks_and_a_spare_fills_the_gap() {
        let members = members(&[("a", "x", None), ("b", "x", None), ("c", "x", None)]);
        let experience = Experience { ranks: vec!["b".into(), "c".into()], doubtful: vec!["b".into()] };
        assert_eq!(ids(choose(&members, 2, &experience)).unwrap(), ["a", "c"]);
        assert_eq!(ids(choose(&members, 3, &experience)).unwrap(), ["b", "c", "a"], "better a doubtful one than none");
    }

    #[test]
    fn of_doubtful_workers_whoever_failed_last_comes_last() {
        let members = members(&[("a", "x", None), ("b", "x", None), ("c", "x", None)]);
        let experience = Experience { ranks: vec!["a".into(), "c".into()], doubtful: vec!["b".into(), "a".into()] };
        assert_eq!(ids(choose(&members, 2, &experience)).unwrap(), ["b", "c"]);
    }
}
