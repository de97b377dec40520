//! Zeroed, aligned memory. Big buffers lie on huge pages, worth about a tenth of the bandwidth.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytemuck::Pod;

use crate::DeviceError;

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;
/// A multiple of every page size in use.
const PAGES: usize = 64 << 10;

/// `len` numbers on a cache-line boundary; zeros at first.
pub(super) struct Buffer<T: Pod> {
    start: NonNull<u8>,
    len: usize,
    numbers: PhantomData<T>,
}

// SAFETY: the buffer owns its memory, and numbers may be sent and shared.
unsafe impl<T: Pod> Send for Buffer<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Pod> Sync for Buffer<T> {}

impl<T: Pod> Buffer<T> {
    /// Fails where the system has no such memory; `what` names it in the error.
    pub(super) fn zeroed(len: usize, what: &str) -> Result<Self, DeviceError> {
        let failed = |bytes| DeviceError::OutOfMemory { what: what.to_owned(), bytes, device: "the host".to_owned() };
        let bytes =
            len.checked_mul(size_of::<T>()).filter(|b| *b <= isize::MAX as usize - 2 * HUGE_PAGE).ok_or(failed(usize::MAX))?;
        let start = match bytes {
            0 => Some(NonNull::<[u64; 8]>::dangling().cast()),
            HUGE_PAGE.. => map(bytes),
            // SAFETY: the layout's size is not zero.
            _ => NonNull::new(unsafe { alloc_zeroed(Self::layout(bytes)) }),
        };
        Ok(Self { start: start.ok_or(failed(bytes))?, len, numbers: PhantomData })
    }

    fn layout(bytes: usize) -> Layout {
        // SAFETY: the alignment is a power of two, and `zeroed` bounds the size.
        unsafe { Layout::from_size_align_unchecked(bytes, CACHE_LINE) }
    }
}

impl<T: Pod> Default for Buffer<T> {
    fn default() -> Self {
        Self { start: NonNull::<[u64; 8]>::dangling().cast(), len: 0, numbers: PhantomData }
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` holds `len` initialised numbers and is aligned to a cache line (to 8 when empty).
        unsafe { std::slice::from_raw_parts(self.start.cast().as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the buffer is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.len) }
    }
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<T>();
        match bytes {
            0 => {}
            // SAFETY: `map` mapped exactly this range.
            HUGE_PAGE.. => unsafe {
                libc::munmap(self.start.as_ptr().cast(), bytes.next_multiple_of(PAGES));
            },
            // SAFETY: allocated with the same layout.
            _ => unsafe { dealloc(self.start.as_ptr(), Self::layout(bytes)) },
        }
    }
}

/// Maps fresh pages on a huge-page boundary, since only aligned huge pages can back them.
fn map(bytes: usize) -> Option<NonNull<u8>> {
    let bytes = bytes.next_multiple_of(PAGES);
    let whole = bytes + HUGE_PAGE;
    // SAFETY: a fresh anonymous mapping; the parts outside `start..start + bytes` are given back before anyone sees them.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let base = libc::mmap(std::ptr::null_mut(), whole, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if base == libc::MAP_FAILED {
            return None;
        }
        let before = base.addr().next_multiple_of(HUGE_PAGE) - base.addr();
        let start = base.byte_add(before);
        if before > 0 {
            libc::munmap(base, before);
        }
        if before < HUGE_PAGE {
            libc::munmap(start.byte_add(bytes), HUGE_PAGE - before);
        }
        #[cfg(target_os = "linux")]
        libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
        NonNull::new(start.cast())
    }
}
