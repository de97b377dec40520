//! Real etcd for tests: processes on free ports with their own data, killed when dropped. Everything here panics when it
//! cannot do what it says, as tests do.

#![allow(clippy::expect_used, clippy::missing_panics_doc, reason = "these are parts of tests")]

mod admin;
mod certs;
mod link;
mod node;

pub use certs::Certs;
pub use link::{Link, LinkState, Pace};

use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use node::Node;

/// How long a cluster may take to answer; far more than it ever needs.
const READY: Duration = Duration::from_secs(60);

/// One etcd, of one or more nodes that know each other.
pub struct Etcd {
    nodes: Vec<Node>,
    certs: Option<Certs>,
    /// Logs and data of the nodes; goes last.
    _home: TempDir,
}

impl Etcd {
    /// Starts `nodes` nodes, and waits until they have a leader. Must be called inside a tokio runtime.
    pub async fn start(nodes: usize) -> Self {
        Self::start_at("127.0.0.1", nodes).await
    }

    /// The same at another address of this host.
    pub async fn start_at(host: &str, nodes: usize) -> Self {
        Self::launch(host, nodes, None, &[]).await
    }

    /// Starts nodes that want certificates of their clients, with further options of etcd's.
    pub async fn start_with(nodes: usize, certs: Option<Certs>, options: &[&str]) -> Self {
        Self::launch("127.0.0.1", nodes, certs, options).await
    }

    async fn launch(host: &str, nodes: usize, certs: Option<Certs>, options: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a folder for etcd");
        let tls = certs.as_ref().map(Certs::server_options).unwrap_or_default();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).chain(tls).collect();
        let nodes = node::plan(host, nodes, home.path(), certs.is_some(), &options);
        let mut etcd = Self { nodes, certs, _home: home };
        etcd.nodes.iter_mut().for_each(Node::start);
        etcd.ready().await;
        etcd
    }

    /// `etcd://…` or `etcds://…`, with every node.
    pub fn url(&self) -> String {
        let nodes: Vec<_> = (0..self.nodes.len()).collect();
        self.url_of(&nodes)
    }

    /// The URL of some of the nodes, in this order.
    pub fn url_of(&self, nodes: &[usize]) -> String {
        let scheme = if self.certs.is_some() { "etcds" } else { "etcd" };
        let addresses: Vec<_> = nodes.iter().map(|&node| self.nodes[node].address()).collect();
        format!("{scheme}://{}", addresses.join(","))
    }

    /// `HOST:PORT` of a node.
    pub fn address(&self, node: usize) -> String {
        self.nodes[node].address()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never; clusters have nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Kills a node as `kill -9` does; its data stay.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a killed node again, with its data and its ports. Does not wait for it.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].start();
    }

    /// Stops a node as SIGSTOP does: it accepts, and never answers.
    pub fn pause(&self, node: usize) {
        self.nodes[node].signal("STOP");
    }

    /// Lets a stopped node go on.
    pub fn resume(&self, node: usize) {
        self.nodes[node].signal("CONT");
    }

    /// Waits until every node that runs knows a leader.
    pub async fn ready(&mut self) {
        let until = Instant::now() + READY;
        for node in 0..self.nodes.len() {
            while self.nodes[node].runs() && self.leader_seen_by(node).await.is_none() {
                assert!(Instant::now() < until, "etcd does not start:\n{}", self.nodes[node].log());
                sleep(Duration::from_millis(50)).await;
            }
            if let Some(problem) = self.nodes[node].died() {
                panic!("etcd ended ({problem}):\n{}", self.nodes[node].log());
            }
        }
    }

    /// A client of our own to one node, without the code under test.
    async fn client(&self, node: usize) -> Option<Client> {
        let mut options = ConnectOptions::new().with_timeout(Duration::from_secs(2));
        let mut scheme = "http";
        if let Some(certs) = &self.certs {
            options = options.with_tls(certs.client_options());
            scheme = "https";
        }
        Client::connect([format!("{scheme}://{}", self.nodes[node].address())], Some(options)).await.ok()
    }

    async fn leader_seen_by(&self, node: usize) -> Option<u64> {
        let status = self.client(node).await?.status().await.ok()?;
        (status.leader() != 0).then(|| status.leader())
    }
}
