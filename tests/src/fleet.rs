//! A fleet: real etcd, and every role as a process of its own that can be killed, stopped, cut off and started again.

mod coordinator;
mod doors;
mod plan;
mod process;
mod status;

pub use coordinator::Coordinator;
pub use doors::{Door, Doors};
pub use plan::{Plan, RANKS};
pub use process::Usage;
pub use status::Status;

use std::{collections::BTreeMap, env, fs::File, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tessera_test_etcd::{Etcd, Link};
pub use tessera_test_etcd::{LinkState, Pace};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use self::{
    plan::{port, worker_port},
    process::Process,
};
use crate::{
    binary,
    network::{Cable, Network, SWITCH},
};

/// How long anything that must happen may take; far more than it needs.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(100);
/// The port of every worker that has a host of its own; its rank meets others by TCP on the port [`RANKS`] beyond.
pub const WORKER_PORT: u16 = 7072;

/// Processes of one cluster.
pub struct Fleet {
    /// Its registry.
    pub etcd: Etcd,
    processes: BTreeMap<String, Process>,
    links: BTreeMap<String, Vec<Link>>,
    coordinators: BTreeMap<String, Coordinator>,
    doors: Doors,
    plan: Plan,
    home: TempDir,
    /// Goes last: all the others are in it.
    network: Option<Network>,
}

impl Fleet {
    /// Starts three nodes of etcd and all roles, and waits until as many replicas serve as there are workers for. Where
    /// workers have hosts of their own, this thread is at their switch from then on, until the fleet is dropped.
    pub async fn start(plan: Plan) -> Result<Self> {
        let mut fleet = Self::of(plan).await?;
        let (plan, registry, mut doors) = (fleet.plan.clone(), fleet.etcd.url(), Vec::new());
        let workers = plan.workers + plan.later;
        for worker in 0..workers {
            fleet.plan_worker(&format!("w{worker}"), worker + plan.linked >= workers).await?;
        }
        for coordinator in 0..plan.coordinators {
            let (name, coordinator) = (format!("c{coordinator}"), Coordinator::new(port()?, port()?));
            fleet.add(&name, Vec::new(), plan.coordinator(&name, &coordinator, &registry));
            fleet.coordinators.insert(name, coordinator);
        }
        for router in 0..plan.routers {
            let grpc = port()?;
            doors.push(Door::new(format!("http://127.0.0.1:{grpc}")));
            fleet.add(&format!("r{router}"), Vec::new(), Plan::router(grpc, port()?, &registry));
        }
        fleet.doors = Arc::new(doors);
        let later: Vec<_> = (plan.workers..workers).map(|worker| format!("w{worker}")).collect();
        let names: Vec<_> = fleet.processes.keys().filter(|name| !later.contains(name)).cloned().collect();
        for name in &names {
            fleet.launch(name)?;
        }
        for name in &names {
            fleet.ready(name).await?;
        }
        let replicas = plan.coordinators.min(plan.workers / 2);
        fleet.wait_for("replicas that serve", |status| status.ready() >= replicas).await?;
        Ok(fleet)
    }

    /// Starts three nodes of etcd, and no role.
    pub async fn empty() -> Result<Self> {
        Self::of(Plan::default()).await
    }

    async fn of(plan: Plan) -> Result<Self> {
        let hosts: Vec<_> = (0..plan.hosts).map(|worker| format!("w{worker}")).collect();
        let network = if hosts.is_empty() { None } else { Some(Network::of(&hosts)?) };
        let etcd = Etcd::start_at(here(network.as_ref()), 3).await;
        let mut home = tempfile::tempdir()?;
        // Whoever wants to know what the processes said.
        home.disable_cleanup(env::var_os("TESSERA_KEEP_LOGS").is_some());
        let (processes, links, coordinators) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { etcd, processes, links, coordinators, doors: Doors::default(), plan, home, network })
    }

    /// Starts any `tessera` of this cluster. Does not wait for it.
    pub fn run(&mut self, name: &str, command: &str) -> Result<()> {
        let command = format!("{command} --registry {}", self.etcd.url());
        self.add(name, Vec::new(), command.split_whitespace().map(str::to_owned).collect());
        self.launch(name)
    }

    /// Starts another router; they must be called r0, r1, … in turn.
    pub fn run_router(&mut self, name: &str, command: &str) -> Result<()> {
        let (grpc, http) = (port()?, port()?);
        let doors = Arc::get_mut(&mut self.doors).context("a load knows the routers already")?;
        doors.push(Door::new(format!("http://127.0.0.1:{grpc}")));
        self.run(name, &format!("{command} --grpc 127.0.0.1:{grpc} --http 127.0.0.1:{http}"))
    }

    /// The id of a process that runs.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.processes.get(name)?.id()
    }

    fn add(&mut self, name: &str, on: Vec<String>, arguments: Vec<String>) {
        let process = Process::new(name, on, arguments, self.home.path());
        self.processes.insert(name.to_owned(), process);
    }

    async fn plan_worker(&mut self, name: &str, linked: bool) -> Result<()> {
        let host = self.network.as_ref().filter(|network| network.hosts().iter().any(|host| host == name));
        let (on, address, port) = match host {
            Some(network) => (network.on(name)?, network.address(name)?, WORKER_PORT),
            None => (self.plan.sees(name), here(self.network.as_ref()).to_owned(), worker_port()?),
        };
        let (listen, mut registry) = (format!("{address}:{port}"), self.etcd.url());
        let mut advertise = listen.clone();
        if linked {
            let links = self.worker_links(&address, port).await?;
            advertise = links[0].address();
            registry = format!("etcd://{}", links[1..].iter().map(Link::address).collect::<Vec<_>>().join(","));
            self.links.insert(name.to_owned(), links);
        }
        let arguments = self.plan.worker(name, &listen, &advertise, &registry);
        self.add(name, on, arguments);
        Ok(())
    }

    /// To a worker, and from there to the nodes of etcd. Its rank listens beside the first one's near end, which others are
    /// told, and is met without a link.
    async fn worker_links(&self, address: &str, port: u16) -> Result<Vec<Link>> {
        let (near, pace) = (worker_port()?, self.plan.pace);
        let mut links = vec![Link::between(&format!("{address}:{near}"), &format!("{address}:{port}"), pace).await];
        for node in 0..self.etcd.len() {
            links.push(Link::between(&format!("{address}:0"), &self.etcd.address(node), pace).await);
        }
        Ok(links)
    }

    fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes.get_mut(name).with_context(|| format!("no process {name}"))
    }

    fn door(&self, name: &str) -> Option<&Door> {
        self.doors.get(name.strip_prefix('r')?.parse::<usize>().ok()?)
    }

    /// What a process has written in its present life.
    pub fn said(&self, name: &str) -> Result<String> {
        Ok(self.processes.get(name).with_context(|| format!("there is no {name}"))?.said())
    }

    /// The routers.
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// Starts a process that does not run. Does not wait for it.
    pub fn launch(&mut self, name: &str) -> Result<()> {
        self.process(name)?.start()
    }

    /// Waits until a process that was started is ready.
    pub async fn ready(&mut self, name: &str) -> Result<()> {
        self.process(name)?.ready().await?;
        self.door(name).map(Door::open);
        Ok(())
    }

    /// Starts a process, and waits until it is ready.
    pub async fn restart(&mut self, name: &str) -> Result<()> {
        self.launch(name)?;
        self.ready(name).await
    }

    /// Kills a process as `kill -9` does.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.door(name).map(Door::die);
        self.process(name)?.kill();
        Ok(())
    }

    /// Stops a process as SIGSTOP does.
    pub fn pause(&mut self, name: &str) -> Result<()> {
        self.process(name)?.signal("STOP")
    }

    /// Lets a stopped process go on.
    pub fn resume(&mut self, name: &str) -> Result<()> {
        self.process(name)?.signal("CONT")
    }

    /// Sends SIGTERM. The streams that a router has may end.
    pub fn terminate(&mut self, name: &str) -> Result<()> {
        self.door(name).map(Door::close);
        self.process(name)?.signal("TERM")
    }

    /// Waits until a process has ended by itself, and tells its exit code.
    pub async fn end(&mut self, name: &str) -> Result<Option<i32>> {
        self.process(name)?.end(SOON).await
    }

    /// Waits until a process has ended by itself, and well.
    pub async fn ended(&mut self, name: &str) -> Result<()> {
        let code = self.end(name).await?;
        ensure!(code == Some(0), "{name} ended with {code:?}");
        Ok(())
    }

    /// Cuts a worker off from everybody, or joins it again.
    pub fn link(&self, name: &str, state: LinkState) -> Result<()> {
        let links = self.links.get(name).with_context(|| format!("{name} has no links"))?;
        links.iter().for_each(|link| link.set(state));
        Ok(())
    }

    /// Workers that are reached over links.
    pub fn linked(&self) -> Vec<String> {
        self.links.keys().cloned().collect()
    }

    /// From now on, a worker's own cable does this.
    pub fn cable(&self, name: &str, cable: Cable) -> Result<()> {
        self.network.as_ref().with_context(|| format!("{name} has no cable"))?.set(name, cable)
    }

    /// Workers with a cable of their own.
    pub fn hosts(&self) -> Vec<String> {
        self.network.as_ref().map(|network| network.hosts().to_vec()).unwrap_or_default()
    }

    /// Whether cables may fail one way.
    pub fn can_filter(&self) -> bool {
        self.network.as_ref().is_some_and(Network::can_filter)
    }

    /// All processes.
    pub fn names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// What each process holds that runs.
    pub fn usage(&self) -> BTreeMap<String, Usage> {
        let usage = |(name, process): (&String, &Process)| Some((name.clone(), process.usage()?));
        self.processes.iter().filter_map(usage).collect()
    }

    /// Runs `tessera drain`.
    pub async fn drain(&self, name: &str) -> Result<()> {
        let output = Command::new(binary()?).args(["drain", name, "--registry", &self.etcd.url()]).output().await?;
        ensure!(output.status.success(), "drain {name}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Runs `tessera drain` and does not wait until it is done.
    pub fn ask_to_leave(&self, name: &str) -> Result<()> {
        let mut command = std::process::Command::new(binary()?);
        command.args(["drain", name, "--registry", &self.etcd.url()]).stdin(Stdio::null()).stdout(Stdio::null());
        let log = File::create(self.home.path().join("drain.log"))?;
        // It ends with the process that leaves; nobody waits for it here.
        drop(command.stderr(log).spawn()?);
        Ok(())
    }

    /// What `tessera status` says.
    pub async fn status(&self) -> Result<Status> {
        Status::of(&["--registry", &self.etcd.url()]).await
    }

    /// A coordinator as those know it who watch it.
    pub fn coordinator(&self, name: &str) -> Result<&Coordinator> {
        self.coordinators.get(name).with_context(|| format!("no coordinator {name}"))
    }

    /// Waits until the cluster is as `so` wants it.
    pub async fn wait_for(&self, what: &str, so: impl Fn(&Status) -> bool) -> Result<Status> {
        let until = Instant::now() + SOON;
        loop {
            let status = self.status().await;
            match status {
                Ok(status) if so(&status) => return Ok(status),
                _ if Instant::now() < until => sleep(LOOK).await,
                Ok(status) => bail!("there are no {what}: {status}"),
                Err(error) => return Err(error.context(format!("there are no {what}"))),
            }
        }
    }
}

/// Where everything listens that has no host of its own.
fn here(network: Option<&Network>) -> &'static str {
    if network.is_some() { SWITCH } else { "127.0.0.1" }
}
