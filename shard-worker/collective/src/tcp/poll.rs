//! Waiting for a connection to have something, or take something.

#![expect(unsafe_code, reason = "poll(2)")]

use std::{io, net::TcpStream, os::fd::AsRawFd, time::Duration};

#[derive(Clone, Copy)]
pub(super) struct Interest {
    pub(super) read: bool,
    pub(super) write: bool,
}

/// Waits until the connection is ready or broken, no longer than `timeout`.
pub(super) fn wait(stream: &TcpStream, interest: Interest, timeout: Duration) -> io::Result<()> {
    let events = if interest.read { libc::POLLIN } else { 0 } | if interest.write { libc::POLLOUT } else { 0 };
    let mut entry = libc::pollfd { fd: stream.as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid entry on this stack, whose descriptor is open for the call.
    let ready = unsafe { libc::poll(&raw mut entry, 1, timeout.as_millis() as libc::c_int) };
    if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
