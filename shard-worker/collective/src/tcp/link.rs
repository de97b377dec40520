//! A connection to one other rank.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use tessera_types::Rank;

use super::poll::{self, Interest};
use crate::{AbortHandle, CollectiveError, call::Call, deadline::Deadline};

/// How long a rank waits before it looks whether it was aborted.
const NAP: Duration = Duration::from_millis(20);
/// Of a message's header: the exchange's number, then the call.
const HEADER: usize = 12;

/// How long an operation may wait, and what ends it before.
pub(super) struct Patience {
    pub(super) limit: Duration,
    pub(super) abort: AbortHandle,
}

impl Patience {
    pub(super) fn new(limit: Duration, abort: AbortHandle) -> Self {
        Self { limit, abort }
    }
}

pub(super) struct Link {
    stream: TcpStream,
    rank: usize,
}

/// A message on its way out.
struct Outgoing<'a> {
    header: [u8; HEADER],
    payload: &'a [u8],
    done: usize,
}

/// A message on its way in.
struct Incoming<'a> {
    header: [u8; HEADER],
    payload: &'a mut [u8],
    done: usize,
}

impl Link {
    /// A link over a connection that says at once what it is given.
    pub(super) fn new(stream: TcpStream, rank: usize) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, rank })
    }

    /// Ends the connection; the other rank notices.
    pub(super) fn close(&self) {
        // Closed already is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Sends and receives at the same time, so that two ranks with much to say never wait for each other's buffers.
    pub(super) fn exchange(
        &self,
        patience: &Patience,
        call: Call,
        sequence: u32,
        send: Option<&[u8]>,
        receive: Option<&mut [u8]>,
    ) -> Result<(), CollectiveError> {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&sequence.to_le_bytes());
        header[4..].copy_from_slice(&call.word().to_le_bytes());
        let mut outgoing = send.map(|payload| Outgoing { header, payload, done: 0 });
        let mut incoming = receive.map(|payload| Incoming { header: [0; HEADER], payload, done: 0 });
        let deadline = Deadline::after(patience.limit);
        loop {
            let before = (done(&outgoing, |out| out.done), done(&incoming, |inc| inc.done));
            if let Some(message) = &mut outgoing {
                self.settled(patience, message.advance(&self.stream))?;
            }
            if let Some(message) = &mut incoming {
                self.settled(patience, message.advance(&self.stream))?;
                message.check(self.rank, sequence, call)?;
            }
            let interest = Interest {
                write: outgoing.as_ref().is_some_and(|out| !out.is_done()),
                read: incoming.as_ref().is_some_and(|inc| !inc.is_done()),
            };
            if !interest.write && !interest.read {
                return patience.abort.check();
            }
            if before == (done(&outgoing, |out| out.done), done(&incoming, |inc| inc.done)) {
                patience.abort.check()?;
                deadline.check(self.rank, call.name())?;
                self.settled(patience, poll::wait(&self.stream, interest, NAP))?;
            }
        }
    }

    /// What a failed read or write means.
    fn settled(&self, patience: &Patience, result: io::Result<()>) -> Result<(), CollectiveError> {
        let Err(error) = result else { return Ok(()) };
        patience.abort.check()?;
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::TimedOut => Err(CollectiveError::PeerLost(Rank(self.rank as u16))),
            _ => Err(CollectiveError::Io { context: format!("the link to rank {}", self.rank), error: error.to_string() }),
        }
    }
}

fn done<T>(message: &Option<T>, of: impl Fn(&T) -> usize) -> usize {
    message.as_ref().map_or(0, of)
}

impl Outgoing<'_> {
    fn is_done(&self) -> bool {
        self.done == HEADER + self.payload.len()
    }

    /// Writes as much as the connection takes now.
    fn advance(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        while !self.is_done() {
            let header = &self.header[self.done.min(HEADER)..];
            let payload = &self.payload[self.done.saturating_sub(HEADER)..];
            self.done += stream.write_vectored(&[IoSlice::new(header), IoSlice::new(payload)])?;
        }
        Ok(())
    }
}

impl Incoming<'_> {
    fn is_done(&self) -> bool {
        self.done == HEADER + self.payload.len()
    }

    /// Reads what is there now: the header, and what belongs to it.
    fn advance(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        while !self.is_done() {
            let in_header = self.done < HEADER;
            let rest = if in_header { &mut self.header[self.done..] } else { &mut self.payload[self.done - HEADER..] };
            match stream.read(rest)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.done += read,
            }
            if in_header && self.done == HEADER {
                // To be checked before anything is taken for payload.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Fails when the other rank is elsewhere.
    fn check(&self, rank: usize, sequence: u32, call: Call) -> Result<(), CollectiveError> {
        if self.done != HEADER {
            return Ok(());
        }
        let [a, b, c, d, word @ ..] = self.header;
        call.agrees(rank, u64::from_le_bytes(word))?;
        let theirs = u32::from_le_bytes([a, b, c, d]);
        if theirs == sequence {
            return Ok(());
        }
        Err(CollectiveError::Mismatch(format!("rank {rank} is at exchange {theirs}, this rank at {sequence}")))
    }
}
