//! A link that can be cut, healed, and slow.

mod carry;
mod pace;

pub use pace::Pace;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use self::{carry::carry, pace::Line};

/// What a link does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Carries everything.
    Whole,
    /// Carries nothing, and says so to nobody: as when packets are dropped.
    Silent,
    /// Carries questions and loses their answers.
    Deaf,
    /// Takes no connection, and ends those there are.
    Closed,
}

/// A forwarder on a port of its own.
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<LinkState>,
    task: JoinHandle<()>,
}

impl Link {
    /// A whole link to `HOST:PORT`, as fast as this machine is.
    pub async fn to(target: &str) -> Self {
        Self::between("127.0.0.1:0", target, Pace::default()).await
    }

    /// A whole link from `HOST:PORT`, where 0 picks a port, to `HOST:PORT`.
    pub async fn between(near: &str, target: &str, pace: Pace) -> Self {
        let listener = TcpListener::bind(near).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (state, seen) = watch::channel(LinkState::Whole);
        let far = Far { target: target.into(), pace, connections: AtomicU64::new(0) };
        let task = tokio::spawn(accept(listener, Arc::new(far), seen));
        Self { address, state, task }
    }

    /// `etcd://…` through this link.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.address)
    }

    /// `HOST:PORT` of its near end.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on. Connections that have lost something are ended when the link is whole again. Bytes that are under way
    /// on a slow link arrive, as those in a long cable do, unless it is closed.
    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.send_replace(LinkState::Closed);
        self.task.abort();
    }
}

/// Where a link leads, and how fast.
struct Far {
    target: String,
    pace: Pace,
    connections: AtomicU64,
}

async fn accept(listener: TcpListener, far: Arc<Far>, state: watch::Receiver<LinkState>) {
    while let Ok((near, _)) = listener.accept().await {
        tokio::spawn(forward(near, far.clone(), state.clone()));
    }
}

async fn forward(near: TcpStream, far: Arc<Far>, mut state: watch::Receiver<LinkState>) {
    if *state.borrow_and_update() == LinkState::Closed {
        return;
    }
    let Ok(stream) = TcpStream::connect(&*far.target).await else { return };
    // What slows a link down is its pace alone.
    let _ = (near.set_nodelay(true), stream.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), stream.into_split());
    let connection = far.connections.fetch_add(1, Ordering::Relaxed);
    let line = |way: u64| Line::new(far.pace, 2 * connection + way);
    tokio::select! {
        () = carry(near_in, far_out, state.clone(), &[LinkState::Silent], line(0)) => {}
        () = carry(far_in, near_out, state.clone(), &[LinkState::Silent, LinkState::Deaf], line(1)) => {}
        _ = state.wait_for(|state| *state == LinkState::Closed) => {}
    }
}
