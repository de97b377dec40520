//! The paged cache's blocks: taken from a pool, back in it when the last holder drops them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tessera_types::{BLOCK_TOKENS, BlockId};

/// Blocks that hold keys and values for `tokens` positions.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

type Free = Arc<Mutex<Vec<BlockId>>>;

/// Every block of the cache, and which of them are free.
#[derive(Debug)]
pub(crate) struct BlockPool {
    free: Free,
    total: usize,
}

/// A share in one block. The block is free again when its last share is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Block(Arc<Lease>);

#[derive(Debug)]
struct Lease {
    id: BlockId,
    free: Free,
}

impl BlockPool {
    pub(crate) fn new(total: usize) -> Self {
        // The last is taken first; reversed, so that numbers are handed out from 0 up.
        let free = (0..total as u32).rev().map(BlockId).collect();
        Self { free: Arc::new(Mutex::new(free)), total }
    }

    /// Takes `count` blocks, or none where fewer are free.
    pub(crate) fn take(&self, count: usize) -> Option<Vec<Block>> {
        let mut free = lock(&self.free);
        let rest = free.len().checked_sub(count)?;
        let lease = |id| Block(Arc::new(Lease { id, free: self.free.clone() }));
        Some(free.drain(rest..).rev().map(lease).collect())
    }

    pub(crate) fn free(&self) -> usize {
        lock(&self.free).len()
    }

    pub(crate) fn used(&self) -> usize {
        self.total - self.free()
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

impl Block {
    pub(crate) fn id(&self) -> BlockId {
        self.0.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.free).push(self.id);
    }
}

fn lock(free: &Free) -> MutexGuard<'_, Vec<BlockId>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_all_or_nothing() {
        let pool = BlockPool::new(3);
        let held = pool.take(2).unwrap();
        assert_eq!(held.iter().map(Block::id).collect::<Vec<_>>(), [BlockId(0), BlockId(1)]);
        assert!(pool.take(2).is_none());
        assert_eq!((pool.free(), pool.used()), (1, 2));
    }

    #[test]
    fn a_shared_block_is_free_when_the_last_share_goes() {
        let pool = BlockPool::new(1);
        let first = pool.take(1).unwrap();
        let second = first.clone();
        drop(first);
        assert_eq!(pool.free(), 0);
        drop(second);
        assert_eq!(pool.free(), 1);
    }
}
