//! Forming the group: each rank listens for its higher neighbours and calls its lower ones.
//!
//! Who calls says the group, the epoch and its rank, and waits to hear the same. Who is called answers only what it has
//! heard and found right, so a link that one side has the other has too; a stale rank is turned away.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use tessera_types::Fnv1a;

use super::link::{Link, Patience};
use crate::{CollectiveError, GroupConfig, deadline::Deadline};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(5);
/// One attempt to connect.
const CONNECT: Duration = Duration::from_millis(500);
/// Who has called says hello within this.
const HELLO: Duration = Duration::from_secs(2);
/// How long a rank waits before it looks whether it was aborted.
const NAP: Duration = Duration::from_millis(20);
const MAGIC: u64 = u64::from_le_bytes(*b"tessera1");
const HELLO_BYTES: usize = 28;
/// Where a hello says the rank; what stands before is the same on all ranks.
const RANK: usize = HELLO_BYTES - 2;

/// Links to `rank ^ (1 << k)`, by `k`.
pub(super) fn links(config: &GroupConfig, addresses: &[SocketAddr], patience: &Patience) -> Result<Vec<Link>, CollectiveError> {
    if addresses.len() != config.size {
        let problem = format!("{} addresses for a group of {}", addresses.len(), config.size);
        return Err(CollectiveError::Mismatch(problem));
    }
    let joining = Joining { config, addresses, patience, deadline: Deadline::after(patience.limit) };
    let rank = usize::from(config.rank.0);
    let neighbours: Vec<usize> = (0..config.size.ilog2()).map(|k| rank ^ 1 << k).collect();
    let mut found: Vec<Option<Link>> = neighbours.iter().map(|_| None).collect();
    // Listening first: a neighbour may call before this rank has reached those that it calls itself.
    let listener = if neighbours.iter().any(|&other| other > rank) { Some(joining.listen(addresses[rank])?) } else { None };
    for (link, &other) in found.iter_mut().zip(&neighbours).filter(|(_, other)| **other < rank) {
        *link = Some(joining.call(other)?);
    }
    while let (Some(listener), Some(next)) = (&listener, found.iter().position(Option::is_none)) {
        let (stream, other) = joining.hear(listener, neighbours[next])?;
        let place = neighbours.iter().position(|&neighbour| neighbour == other && other > rank);
        // A rank that calls twice has given up its first connection.
        if let Some(place) = place {
            found[place] = Some(joining.link(stream, other)?);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

struct Joining<'a> {
    config: &'a GroupConfig,
    addresses: &'a [SocketAddr],
    patience: &'a Patience,
    deadline: Deadline,
}

impl Joining<'_> {
    /// Fails when it is too late to wait for the rank, otherwise waits a moment.
    fn pause(&self, other: usize) -> Result<(), CollectiveError> {
        self.patience.abort.check()?;
        self.deadline.check(other, "join")?;
        thread::sleep(PAUSE);
        Ok(())
    }

    /// Listens at the port of this rank's address, on every interface: the address is the one that others call, which may
    /// be a name's or a service's that this host does not have.
    fn listen(&self, address: SocketAddr) -> Result<TcpListener, CollectiveError> {
        let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let address = SocketAddr::new(any, address.port());
        let refused =
            |error: io::Error| CollectiveError::Io { context: format!("cannot listen on {address}"), error: error.to_string() };
        loop {
            match TcpListener::bind(address) {
                Ok(listener) => {
                    listener.set_nonblocking(true).map_err(refused)?;
                    return Ok(listener);
                }
                // This worker's last group may still be letting go of the port.
                Err(error) if error.kind() == ErrorKind::AddrInUse && self.pause(0).is_ok() => {}
                Err(error) => return Err(refused(error)),
            }
        }
    }

    /// Calls a lower rank until it answers.
    fn call(&self, other: usize) -> Result<Link, CollectiveError> {
        loop {
            if let Ok(mut stream) = TcpStream::connect_timeout(&self.addresses[other], CONNECT)
                && stream.write_all(&self.hello()).is_ok()
                && self.hello_of(&mut stream, self.deadline) == Some(other)
            {
                return self.link(stream, other);
            }
            self.pause(other)?;
        }
    }

    /// Waits for a call from any rank of the group; `awaited` is one that is missing.
    fn hear(&self, listener: &TcpListener, awaited: usize) -> Result<(TcpStream, usize), CollectiveError> {
        loop {
            // Connections that ended before they were accepted, and descriptors that ran out, may pass.
            if let Ok((mut stream, _)) = listener.accept()
                && stream.set_nonblocking(false).is_ok()
                && let Some(rank) = self.hello_of(&mut stream, Deadline::after(HELLO))
                && stream.write_all(&self.hello()).is_ok()
            {
                return Ok((stream, rank));
            }
            self.pause(awaited)?;
        }
    }

    fn link(&self, stream: TcpStream, other: usize) -> Result<Link, CollectiveError> {
        let failed =
            |error: io::Error| CollectiveError::Io { context: format!("the link to rank {other}"), error: error.to_string() };
        Link::new(stream, other).map_err(failed)
    }

    /// The rank at the other end, if it says in time that it is of the same group, epoch and size.
    fn hello_of(&self, stream: &mut TcpStream, bound: Deadline) -> Option<usize> {
        stream.set_read_timeout(Some(NAP)).ok()?;
        let (mut hello, mut done) = ([0; HELLO_BYTES], 0);
        while done < HELLO_BYTES {
            match stream.read(&mut hello[done..]) {
                Ok(0) => return None,
                Ok(read) => done += read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(_) => return None,
            }
            if self.patience.abort.is_aborted() || bound.check(0, "join").is_err() {
                return None;
            }
        }
        let rank = usize::from(u16::from_le_bytes([hello[RANK], hello[RANK + 1]]));
        (hello[..RANK] == self.hello()[..RANK] && rank < self.config.size).then_some(rank)
    }

    /// Magic, group, epoch, size; then the rank.
    fn hello(&self) -> [u8; HELLO_BYTES] {
        let mut hello = [0; HELLO_BYTES];
        hello[..8].copy_from_slice(&MAGIC.to_le_bytes());
        hello[8..16].copy_from_slice(&Fnv1a::of(self.config.group.as_bytes()).to_le_bytes());
        hello[16..24].copy_from_slice(&self.config.epoch.0.to_le_bytes());
        hello[24..RANK].copy_from_slice(&(self.config.size as u16).to_le_bytes());
        hello[RANK..].copy_from_slice(&self.config.rank.0.to_le_bytes());
        hello
    }
}
