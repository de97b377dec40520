//! The paged cache's blocks: held by sequences, found again by what is in them, free when nobody holds them.
//!
//! A full block never changes, so it is shared by all sequences that begin alike. One that nobody holds keeps its
//! content until it is needed for something else, the longest unused first; it counts as free all the while.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tessera_types::{BLOCK_TOKENS, BlockId, PrefixHash};

/// Blocks that hold keys and values for `tokens` positions.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// Every block of the cache, who holds it, and what is in it.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Shared,
    total: usize,
}

/// A share in one block. The block is free again when its last share is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    id: BlockId,
    blocks: Shared,
}

type Shared = Arc<Mutex<Blocks>>;

#[derive(Debug)]
struct Blocks {
    slots: Vec<Slot>,
    /// Free blocks without a name; the last is taken first.
    blank: Vec<BlockId>,
    named: HashMap<PrefixHash, BlockId>,
    /// Free blocks with a name, by the order in which they became free.
    idle: BTreeMap<u64, BlockId>,
    released: u64,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    holders: usize,
    name: Option<PrefixHash>,
    /// When it became free, as a key of `idle`.
    released: u64,
}

impl BlockPool {
    pub(crate) fn new(total: usize) -> Self {
        let blocks = Blocks {
            slots: vec![Slot::default(); total],
            // Reversed, so that numbers are handed out from 0 up.
            blank: (0..total as u32).rev().map(BlockId).collect(),
            named: HashMap::new(),
            idle: BTreeMap::new(),
            released: 0,
        };
        Self { blocks: Arc::new(Mutex::new(blocks)), total }
    }

    /// Takes `count` blocks to write into, or none where fewer are free.
    pub(crate) fn take(&self, count: usize) -> Option<Vec<Block>> {
        let mut blocks = lock(&self.blocks);
        if count > blocks.free() {
            return None;
        }
        (0..count).map(|_| blocks.take().map(|id| self.block(id))).collect()
    }

    /// Shares the longest run of blocks that have the first of these names.
    pub(crate) fn find(&self, names: &[PrefixHash]) -> Vec<Block> {
        let mut blocks = lock(&self.blocks);
        names.iter().map_while(|name| blocks.find(name).map(|id| self.block(id))).collect()
    }

    /// Makes a block that is held and full known by its name. Where another has the name already, that one keeps it.
    pub(crate) fn name(&self, id: BlockId, name: PrefixHash) {
        let mut blocks = lock(&self.blocks);
        if *blocks.named.entry(name).or_insert(id) == id {
            blocks.slots[id.0 as usize].name = Some(name);
        }
    }

    pub(crate) fn free(&self) -> usize {
        lock(&self.blocks).free()
    }

    pub(crate) fn used(&self) -> usize {
        self.total - self.free()
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    fn block(&self, id: BlockId) -> Block {
        Block { id, blocks: self.blocks.clone() }
    }
}

impl Blocks {
    fn free(&self) -> usize {
        self.blank.len() + self.idle.len()
    }

    fn take(&mut self) -> Option<BlockId> {
        let id = self.blank.pop().or_else(|| self.idle.pop_first().map(|(_, id)| id))?;
        let slot = &mut self.slots[id.0 as usize];
        if let Some(name) = slot.name.take() {
            self.named.remove(&name);
        }
        slot.holders = 1;
        Some(id)
    }

    fn find(&mut self, name: &PrefixHash) -> Option<BlockId> {
        let id = *self.named.get(name)?;
        let slot = &mut self.slots[id.0 as usize];
        if slot.holders == 0 {
            self.idle.remove(&slot.released);
        }
        slot.holders += 1;
        Some(id)
    }

    fn release(&mut self, id: BlockId) {
        let slot = &mut self.slots[id.0 as usize];
        slot.holders -= 1;
        if slot.holders > 0 {
            return;
        }
        if slot.name.is_none() {
            self.blank.push(id);
            return;
        }
        self.released += 1;
        slot.released = self.released;
        self.idle.insert(self.released, id);
    }
}

impl Block {
    pub(crate) fn id(&self) -> BlockId {
        self.id
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        lock(&self.blocks).release(self.id);
    }
}

fn lock(blocks: &Shared) -> MutexGuard<'_, Blocks> {
    blocks.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tessera_types::TokenId;

    use super::*;

    fn names(count: usize) -> Vec<PrefixHash> {
        PrefixHash::of_prompt(&vec![TokenId(5); count * BLOCK_TOKENS], &[])
    }

    fn ids(blocks: &[Block]) -> Vec<u32> {
        blocks.iter().map(|block| block.id().0).collect()
    }

    #[test]
    fn a_pool_gives_all_or_nothing() {
        let pool = BlockPool::new(3);
        let held = pool.take(2).unwrap();
        assert_eq!(ids(&held), [0, 1]);
        assert!(pool.take(2).is_none());
        assert_eq!((pool.free(), pool.used()), (1, 2));
    }

    #[test]
    fn a_shared_block_is_free_when_the_last_share_goes_and_found_even_then() {
        let pool = BlockPool::new(1);
        let first = pool.take(1).unwrap();
        pool.name(first[0].id(), names(1)[0]);
        let second = pool.find(&names(1));
        drop(first);
        assert_eq!(pool.free(), 0);
        drop(second);
        assert_eq!(pool.free(), 1);
        assert_eq!(ids(&pool.find(&names(2))), [0]);
    }

    #[test]
    fn blank_blocks_are_taken_first_then_the_longest_unused() {
        let (pool, names) = (BlockPool::new(4), names(3));
        let mut held = pool.take(3).unwrap();
        held.iter().zip(&names).for_each(|(block, &name)| pool.name(block.id(), name));
        while held.pop().is_some() {}
        assert_eq!(ids(&pool.take(2).unwrap()), [3, 2], "the end of the run became free before its beginning");
        assert_eq!(ids(&pool.find(&names)), [0, 1]);
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn a_name_belongs_to_one_block() {
        let (pool, names) = (BlockPool::new(2), names(1));
        let held = pool.take(2).unwrap();
        held.iter().for_each(|block| pool.name(block.id(), names[0]));
        drop(held);
        assert_eq!(ids(&pool.take(2).unwrap()), [1, 0], "the second has no name, so it is blank");
        assert!(pool.find(&names).is_empty());
    }
}
