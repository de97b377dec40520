//! Working memory of a thread, kept from one task to the next.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct CacheLine([f32; 16]);

thread_local! {
    static MEMORY: RefCell<Vec<CacheLine>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` numbers, any values in them, from the start of a cache line. Not to be called from within itself.
pub(super) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    MEMORY.with_borrow_mut(|memory| {
        let lines = len.div_ceil(16);
        if memory.len() < lines {
            memory.resize(lines, CacheLine([0.0; 16]));
        }
        work(&mut bytemuck::cast_slice_mut(memory)[..len])
    })
}
