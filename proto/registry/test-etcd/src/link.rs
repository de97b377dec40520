//! A link to an etcd that can be cut, and healed.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

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
    /// A whole link to `HOST:PORT`.
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (state, seen) = watch::channel(LinkState::Whole);
        let task = tokio::spawn(accept(listener, Arc::from(target), seen));
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

    /// From now on. Connections that have lost something are ended when the link is whole again.
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

async fn accept(listener: TcpListener, target: Arc<str>, state: watch::Receiver<LinkState>) {
    while let Ok((near, _)) = listener.accept().await {
        tokio::spawn(forward(near, target.clone(), state.clone()));
    }
}

async fn forward(near: TcpStream, target: Arc<str>, mut state: watch::Receiver<LinkState>) {
    if *state.borrow_and_update() == LinkState::Closed {
        return;
    }
    let Ok(far) = TcpStream::connect(&*target).await else { return };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = carry(near_in, far_out, state.clone(), &[LinkState::Silent]) => {}
        () = carry(far_in, near_out, state.clone(), &[LinkState::Silent, LinkState::Deaf]) => {}
        _ = state.wait_for(|state| *state == LinkState::Closed) => {}
    }
}

/// Carries bytes one way; ends with the connection, or once bytes are due after some were lost.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<LinkState>, loses: &[LinkState]) {
    let (mut buffer, mut lost) = (vec![0; 16 << 10], false);
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { return };
                let losing = loses.contains(&state.borrow_and_update());
                lost |= losing;
                if !losing && (lost || to.write_all(&buffer[..length]).await.is_err()) {
                    return;
                }
            }
            changed = state.changed() => {
                if changed.is_err() || (lost && !loses.contains(&state.borrow_and_update())) {
                    return;
                }
            }
        }
    }
}
