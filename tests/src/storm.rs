//! Faults without end: whatever happens, every stream gets the tokens of the undisturbed run, and nothing is left behind.

mod fault;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, sleep_until};

use self::fault::{Fault, Subjects};
use crate::{
    fleet::{Fleet, Plan, Usage},
    load::{Load, Report, questions},
    network::Network,
};

/// Streams that are always open.
pub const STREAMS: usize = 16;
/// Workers, coordinators and routers that may be away at the same time.
const AWAY: [usize; 3] = [2, 1, 1];
/// What a process may hold beyond what the largest of its role held before.
const MORE: Usage = Usage { memory: 64 << 20, descriptors: 40 };
/// How long what was left behind may take to go: leases end within seconds.
const SOON: Duration = Duration::from_secs(60);

/// Two replicas of two ranks, a spare worker, a spare coordinator, two routers; where that is allowed, two of the workers
/// on hosts of their own.
fn plan(say: &impl Fn(&str)) -> Plan {
    let hosts = match Network::allowed() {
        Ok(()) => 2,
        Err(reason) => {
            say(&format!("skipped: no cable fails, since this process may not make network namespaces: {reason:#}"));
            0
        }
    };
    Plan { workers: 5, hosts, linked: 2, coordinators: 3, routers: 2, drain: 5, ..Plan::default() }
}

/// Lets `faults` faults drawn from `seed` happen, and tells each by `say`.
///
/// # Errors
/// Whatever should not have been: a stream that was changed or broken, a process that is larger, keys that stay.
pub async fn storm(faults: usize, seed: u64, say: impl Fn(&str)) -> Result<Report> {
    let questions = questions(2, 500).await?;
    let mut fleet = Fleet::start(plan(&say)).await?;
    let load = Load::start(fleet.doors(), &questions, STREAMS);
    load.flows().await?;
    let calm = Calm::of(&fleet).await?;
    let mut storm = Storm { random: StdRng::seed_from_u64(seed), open: Vec::new(), began: Instant::now() };
    for fault in 1..=faults {
        storm.strike(&mut fleet, &format!("{fault:4}"), &say).await?;
        let pause = Duration::from_secs_f64(storm.random.random_range(0.3..2.2));
        storm.pass(&mut fleet, Instant::now() + pause, &say).await?;
    }
    storm.pass(&mut fleet, Instant::now() + Duration::from_secs(600), &say).await?;
    fleet.wait_for("two replicas again", |status| status.ready() == 2).await.with_context(|| load.so_far())?;
    load.flows().await?;
    let report = load.stop().await?;
    ensure!(report.failures.is_empty(), "{report}:\n{}", report.failures.join("\n"));
    calm.is_back(&fleet).await?;
    say(&format!("{report}, {:.0} s", storm.began.elapsed().as_secs_f64()));
    Ok(report)
}

struct Storm {
    random: StdRng,
    /// Faults that are not over, and when they are to be.
    open: Vec<(Instant, Fault)>,
    began: Instant,
}

impl Storm {
    async fn strike(&mut self, fleet: &mut Fleet, what: &str, say: &impl Fn(&str)) -> Result<()> {
        let leader = if self.is_away("etcd") { 0 } else { fleet.etcd.leader().await };
        let left = self.left(fleet);
        let fault = loop {
            if let Some(fault) = Fault::draw(&mut self.random, &left, leader) {
                break fault;
            }
        };
        say(&format!("{what} {:7.2} s  {fault}", self.began.elapsed().as_secs_f64()));
        fault.begin(fleet).await.with_context(|| fault.to_string())?;
        let until = Instant::now() + fault.lasts(&mut self.random);
        self.open.push((until, fault));
        Ok(())
    }

    /// Ends what is to end until then; returns then, or when nothing is open any more and the rest is waiting.
    async fn pass(&mut self, fleet: &mut Fleet, until: Instant, say: &impl Fn(&str)) -> Result<()> {
        let last = until > Instant::now() + SOON;
        loop {
            let next = self.open.iter().enumerate().min_by_key(|(_, (due, _))| *due).map(|(at, (due, _))| (at, *due));
            match next {
                Some((at, due)) if due <= until => {
                    sleep_until(due).await;
                    let (_, fault) = self.open.remove(at);
                    fault.end(fleet).await.with_context(|| format!("the end of: {fault}"))?;
                    self.settle(fleet, &fault).await?;
                    say(&format!("     {:7.2} s  over: {fault}", self.began.elapsed().as_secs_f64()));
                }
                _ if last => return Ok(()),
                _ => {
                    sleep_until(until).await;
                    return Ok(());
                }
            }
        }
    }

    /// A process that was started again is one that can be struck once it is ready.
    async fn settle(&self, fleet: &mut Fleet, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill(name) | Fault::Terminate(name) | Fault::Drain(name) => fleet.ready(name).await,
            _ => Ok(()),
        }
    }

    fn is_away(&self, name: &str) -> bool {
        self.open.iter().any(|(_, fault)| fault.subject() == name)
    }

    fn left(&self, fleet: &Fleet) -> Subjects {
        let here = |role: char, away: usize| -> Vec<String> {
            let all = fleet.names().into_iter().filter(|name| name.starts_with(role));
            let (gone, here): (Vec<_>, Vec<_>) = all.partition(|name| self.is_away(name));
            if gone.len() < away { here } else { Vec::new() }
        };
        let workers = here('w', AWAY[0]);
        let (mut linked, mut hosts) = (fleet.linked(), fleet.hosts());
        linked.retain(|name| workers.contains(name));
        hosts.retain(|name| workers.contains(name));
        let (coordinators, routers) = (here('c', AWAY[1]), here('r', AWAY[2]));
        Subjects { workers, linked, hosts, filter: fleet.can_filter(), coordinators, routers, etcd: !self.is_away("etcd") }
    }
}

/// A fleet before anything happened to it.
struct Calm {
    usage: BTreeMap<char, Usage>,
    counts: [usize; 3],
    keys: i64,
    leases: usize,
}

impl Calm {
    async fn of(fleet: &Fleet) -> Result<Self> {
        let mut usage = BTreeMap::<char, Usage>::new();
        for (name, used) in fleet.usage() {
            let most = usage.entry(role(&name)).or_default();
            most.memory = most.memory.max(used.memory);
            most.descriptors = most.descriptors.max(used.descriptors);
        }
        let counts = fleet.status().await?.counts();
        Ok(Self { usage, counts, keys: fleet.etcd.count("/tessera/").await, leases: fleet.etcd.leases().await })
    }

    /// Waits until keys and leases are as many as then, and nobody holds much more.
    async fn is_back(&self, fleet: &Fleet) -> Result<()> {
        let until = Instant::now() + SOON;
        loop {
            let status = fleet.status().await?;
            let now = (status.counts(), fleet.etcd.count("/tessera/").await, fleet.etcd.leases().await, status.sequences());
            let then = (self.counts, self.keys, self.leases, 0);
            if now == then {
                break;
            }
            ensure!(Instant::now() < until, "records, keys, leases, sequences: {then:?} became {now:?}\n{status}");
            sleep(Duration::from_millis(200)).await;
        }
        for (name, used) in fleet.usage() {
            let most = self.usage.get(&role(&name)).copied().unwrap_or_default();
            let fits = used.memory <= most.memory + MORE.memory && used.descriptors <= most.descriptors + MORE.descriptors;
            ensure!(fits, "{name} holds {used:?}; the most of its role was {most:?}");
        }
        Ok(())
    }
}

fn role(name: &str) -> char {
    name.chars().next().unwrap_or_default()
}
