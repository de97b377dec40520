//! Hosts on one machine: network namespaces, each with a cable to a switch, where root allows it.
//!
//! The switch is in a namespace of its own, with the thread that made it: nothing is added to the machine's own network,
//! and all addresses are seen inside alone. Whatever runs on a host has shared memory of its own, so that ranks of two
//! hosts find that they must meet over TCP. Everything goes when the network is dropped.

mod cable;
mod command;

pub use cable::Cable;

use std::{
    fs::File,
    marker::PhantomData,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Handle, RuntimeFlavor};

use self::command::{ip, nft};

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// The address of the switch, where everything runs that is not on a host.
pub const SWITCH: &str = "10.77.0.1";
/// The bridge.
const BRIDGE: &str = "lan";
/// Hosts that have an address.
const HOSTS: usize = 250;

/// A switch, and hosts with a cable to it.
#[derive(Debug)]
pub struct Network {
    /// What the names of all namespaces begin with.
    prefix: String,
    hosts: Vec<String>,
    can_filter: bool,
    /// Where this thread was before.
    home: File,
    /// It belongs to the thread that is inside.
    _thread: PhantomData<*const ()>,
}

impl Network {
    /// Whether this process may make networks.
    ///
    /// # Errors
    /// Why not.
    pub fn allowed() -> Result<()> {
        // Whatever is asked for later is asked for here; what fails later is then a failure.
        let probe = Self::unconnected(&["probe"])?;
        ip(&["-n", &probe.switch(), "link", "add", "name", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &probe.switch(), "link", "add", "name", "probe", "type", "veth", "peer", "name", "eth0"])
    }

    /// Makes a switch with hosts of these names, and moves this thread to the switch.
    ///
    /// # Errors
    /// When this process may not, or when its runtime has other threads, which would stay outside.
    pub fn of(hosts: &[impl AsRef<str>]) -> Result<Self> {
        let alone = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread);
        ensure!(alone, "a network wants a runtime of one thread");
        ensure!(hosts.len() <= HOSTS, "{} hosts are too many", hosts.len());
        let mut network = Self::unconnected(hosts)?;
        let switch = network.switch();
        network.can_filter = nft(&switch, &["add table bridge probe", "delete table bridge probe"]).is_ok();
        ip(&["-n", &switch, "link", "set", "dev", "lo", "up"])?;
        ip(&["-n", &switch, "link", "add", "name", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &switch, "addr", "add", &format!("{SWITCH}/24"), "dev", BRIDGE])?;
        ip(&["-n", &switch, "link", "set", "dev", BRIDGE, "up"])?;
        for host in hosts {
            network.connect(host.as_ref())?;
        }
        enter(&file(&switch))?;
        Ok(network)
    }

    /// Namespaces with nothing in them.
    fn unconnected(hosts: &[impl AsRef<str>]) -> Result<Self> {
        /// Networks of this process so far.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("tessera-{}-{}", process::id(), MADE.fetch_add(1, Ordering::SeqCst));
        let home = File::open("/proc/thread-self/ns/net").context("this thread's network namespace")?;
        let mut network = Self { prefix, hosts: Vec::new(), can_filter: false, home, _thread: PhantomData };
        ip(&["netns", "add", &network.switch()])?;
        for host in hosts.iter().map(AsRef::as_ref) {
            ip(&["netns", "add", &network.namespace(host)])?;
            network.hosts.push(host.to_owned());
        }
        Ok(network)
    }

    /// Puts a cable between a host and the switch; its end there bears the host's name.
    fn connect(&self, host: &str) -> Result<()> {
        let (switch, namespace) = (self.switch(), self.namespace(host));
        ip(&["-n", &switch, "link", "add", "name", host, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["-n", &switch, "link", "set", "dev", host, "master", BRIDGE, "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{}/24", self.address(host)?), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "dev", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "dev", "eth0", "up"])
    }

    /// Names of all hosts.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The address of a host.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn address(&self, host: &str) -> Result<String> {
        let at = self.hosts.iter().position(|name| name == host).with_context(|| format!("no host {host}"))?;
        Ok(format!("10.77.0.{}", at + 2))
    }

    /// What runs the command that follows on a host.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn on(&self, host: &str) -> Result<Vec<String>> {
        self.address(host)?;
        let own_memory = r#"mount -t tmpfs tmpfs /dev/shm && exec "$@""#;
        let namespace = self.namespace(host);
        Ok(["ip", "netns", "exec", &namespace, "sh", "-c", own_memory, "sh"].map(str::to_owned).to_vec())
    }

    /// From now on.
    ///
    /// # Errors
    /// When there is no such host, or the machine has no packet filter for what the cable is to do.
    pub fn set(&self, host: &str, cable: Cable) -> Result<()> {
        self.address(host)?;
        Cable::mend(&self.switch(), host, self.can_filter)?;
        cable.fail(&self.switch(), host)
    }

    /// Whether cables may fail one way.
    pub fn can_filter(&self) -> bool {
        self.can_filter
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What cannot be removed was not made, or is gone.
        let _ = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network));
        for namespace in self.hosts.iter().map(|host| self.namespace(host)).chain([self.switch()]) {
            let _ = ip(&["netns", "del", &namespace]);
        }
    }
}

fn file(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

/// Moves this thread, and what it starts from now on.
fn enter(namespace: &Path) -> Result<()> {
    let opened = File::open(namespace).with_context(|| format!("{}", namespace.display()))?;
    Ok(move_into_link_name_space(opened.as_fd(), Some(LinkNameSpaceType::Network))?)
}

#[cfg(test)]
mod tests;
