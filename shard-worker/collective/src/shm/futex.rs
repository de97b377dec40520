//! Sleeping on a word of shared memory.

#![expect(unsafe_code, reason = "shared memory between processes")]

use std::{ptr, sync::atomic::AtomicU32, time::Duration};

/// Sleeps until the word is woken, no longer than `timeout`; returns at once when it does not hold `expected`.
/// May return early for no reason.
pub(super) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout =
        libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: libc::c_long::from(timeout.subsec_nanos()) };
    // SAFETY: the word outlives the call, and the timeout is a valid timespec on this stack. The futex is not private,
    // since ranks may be processes.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const timeout, ptr::null::<u32>(), 0);
    }
}

/// Wakes all who sleep on the word.
pub(super) fn wake_all(word: &AtomicU32) {
    // SAFETY: waking only takes the word's address, which is valid for the call.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}
