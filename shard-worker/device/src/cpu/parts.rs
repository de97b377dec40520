//! A slice that several threads write, each its own parts of it.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice shared among the tasks of one job.
pub(super) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    whole: PhantomData<&'a mut [T]>,
}

// SAFETY: numbers are reached through `claim` only, whose callers promise that each is held once.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(whole: &'a mut [T]) -> Self {
        Self { start: whole.as_mut_ptr(), len: whole.len(), whole: PhantomData }
    }

    /// The numbers of a range.
    ///
    /// # Safety
    /// No two claims that live at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(super) unsafe fn claim(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds, and by the caller's promise nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
