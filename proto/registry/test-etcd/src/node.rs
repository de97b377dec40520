//! One etcd process.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
};

/// Newer versions can leave out waiting for the disk, which tests do not need.
static NO_FSYNC: LazyLock<bool> = LazyLock::new(|| {
    let help = Command::new("etcd").arg("--help").output().expect("etcd must be on the PATH: apt-get install etcd-server");
    [help.stdout, help.stderr].iter().any(|text| String::from_utf8_lossy(text).contains("--unsafe-no-fsync"))
});

pub(crate) struct Node {
    address: SocketAddr,
    options: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

/// Nodes of one cluster that are not started yet.
pub(crate) fn plan(host: &str, nodes: usize, home: &Path, tls: bool, options: &[String]) -> Vec<Node> {
    // All at once, so that no port is found free twice.
    let listeners: Vec<_> = (0..nodes * 2).map(|_| TcpListener::bind((host, 0)).expect("a free port")).collect();
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("an address")).collect();
    let (clients, peers) = addresses.split_at(nodes);
    let members: Vec<_> = peers.iter().enumerate().map(|(node, address)| format!("node{node}=http://{address}")).collect();
    let scheme = if tls { "https" } else { "http" };
    let node = |node: usize| {
        let (client, peer) = (format!("{scheme}://{}", clients[node]), format!("http://{}", peers[node]));
        let data = home.join(format!("data{node}")).display().to_string();
        let mut all: Vec<String> = [
            ["--name", &format!("node{node}")],
            ["--data-dir", &data],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &members.join(",")],
            // Elections in less than a second, as a cluster in one data centre may have them.
            ["--heartbeat-interval", "50"],
            ["--election-timeout", "300"],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
        all.extend_from_slice(options);
        if *NO_FSYNC {
            all.push("--unsafe-no-fsync".to_owned());
        }
        Node { address: clients[node], options: all, log: home.join(format!("log{node}")), process: None }
    };
    (0..nodes).map(node).collect()
}

impl Node {
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut etcd = Command::new("etcd");
        etcd.args(&self.options).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let started = etcd.spawn().expect("etcd must be on the PATH: apt-get install etcd-server");
        self.process = Some(started);
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.process.is_some() && self.died().is_none()
    }

    /// How it ended by itself.
    pub(crate) fn died(&mut self) -> Option<String> {
        let ended = self.process.as_mut()?.try_wait().expect("the state of a child")?;
        Some(ended.to_string())
    }

    pub(crate) fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("the node runs").id().to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status().expect("kill runs");
        assert!(sent.success(), "no signal {name} to {process}");
    }

    /// The end of what it said.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
