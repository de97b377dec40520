//! Whether a rank is there: it holds a lock on one byte of the file, which the system takes back when the rank dies.
//!
//! Unlike a process id, a lock is never reused, ends with a process that no one has reaped, tells threads apart and is
//! seen across containers.

#![expect(unsafe_code, reason = "locks of open file descriptions")]

use std::{fs::File, io, os::fd::AsRawFd};

fn byte(rank: usize) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: rank as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes the rank's place; `false` when another has it. The place is held as long as this file is open.
pub(super) fn take(file: &File, rank: usize) -> io::Result<bool> {
    let lock = byte(rank);
    // SAFETY: the descriptor is open and the lock is a valid flock on this stack.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if taken == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    let held = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES));
    if held { Ok(false) } else { Err(error) }
}

/// Whether someone else, through another open file, holds the rank's place.
pub(super) fn is_taken(file: &File, rank: usize) -> io::Result<bool> {
    let mut lock = byte(rank);
    // SAFETY: the descriptor is open and the lock is a valid flock on this stack, which the call may overwrite.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if asked == 0 { Ok(lock.l_type != libc::F_UNLCK as libc::c_short) } else { Err(io::Error::last_os_error()) }
}

/// Takes the file's memory now: a write into a hole that cannot be filled would end the process.
pub(super) fn reserve(file: &File, bytes: usize) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
