//! What a replica's cache should have, going by the prompts that this router has sent there.

use std::collections::{BTreeMap, HashMap};

use tessera_types::PrefixHash;

/// Names remembered of a replica at most: a million tokens, for some 10 MB of memory.
const LIMIT: usize = 1 << 16;

/// Names of blocks, the longest unused forgotten first. A guess at what the replica does with its own: other routers use
/// it, too, and blocks may have been needed for something else. A wrong guess costs time and never an answer.
#[derive(Debug)]
pub(super) struct Prefixes {
    /// The life of the group that computed them; 0 while unknown.
    epoch: u64,
    limit: usize,
    last_use: HashMap<PrefixHash, u64>,
    by_use: BTreeMap<u64, PrefixHash>,
    uses: u64,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { epoch: 0, limit: LIMIT, last_use: HashMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }
}

impl Prefixes {
    /// Blocks at the beginning of a prompt that should be there.
    pub(super) fn matched(&self, prompt: &[PrefixHash]) -> usize {
        prompt.iter().take_while(|name| self.last_use.contains_key(name)).count()
    }

    /// Notes that a prompt was sent there.
    pub(super) fn remember(&mut self, prompt: &[PrefixHash]) {
        // Its end first, as the replica does: what lies behind a forgotten block is worth nothing.
        for &name in prompt.iter().take(self.limit).rev() {
            self.uses += 1;
            if let Some(before) = self.last_use.insert(name, self.uses) {
                self.by_use.remove(&before);
            }
            self.by_use.insert(self.uses, name);
        }
        self.trim();
    }

    /// Takes in what the replica says of its cache: one of a new group is empty. A number not known is 0.
    pub(super) fn note(&mut self, epoch: u64, blocks: u32) {
        if blocks > 0 {
            self.limit = LIMIT.min(blocks as usize);
            self.trim();
        }
        if epoch > 0 && std::mem::replace(&mut self.epoch, epoch) != epoch {
            self.last_use.clear();
            self.by_use.clear();
        }
    }

    fn trim(&mut self) {
        while self.by_use.len() > self.limit
            && let Some((_, name)) = self.by_use.pop_first()
        {
            self.last_use.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use tessera_types::{BLOCK_TOKENS, TokenId};

    use super::*;

    fn prompt(blocks: usize, word: u32) -> Vec<PrefixHash> {
        PrefixHash::of_prompt(&vec![TokenId(word); blocks * BLOCK_TOKENS], &[])
    }

    fn of_limit(blocks: u32) -> Prefixes {
        let mut prefixes = Prefixes::default();
        prefixes.note(1, blocks);
        prefixes
    }

    #[test]
    fn the_longest_common_beginning_counts() {
        let mut prefixes = Prefixes::default();
        prefixes.remember(&prompt(3, 1));
        assert_eq!([2, 3, 9].map(|blocks| prefixes.matched(&prompt(blocks, 1))), [2, 3, 3]);
        assert_eq!(prefixes.matched(&prompt(3, 2)), 0);
    }

    #[test]
    fn ends_of_prompts_longest_unused_are_forgotten_first() {
        let mut prefixes = of_limit(6);
        prefixes.remember(&prompt(3, 1));
        prefixes.remember(&prompt(3, 2));
        prefixes.remember(&prompt(3, 1));
        prefixes.remember(&prompt(1, 3));
        assert_eq!([(3, 1), (3, 2), (1, 3)].map(|(blocks, word)| prefixes.matched(&prompt(blocks, word))), [3, 2, 1]);
        assert_eq!((prefixes.last_use.len(), prefixes.by_use.len()), (6, 6));
    }

    #[test]
    fn of_a_prompt_longer_than_the_memory_the_beginning_is_kept() {
        let mut prefixes = of_limit(4);
        prefixes.remember(&prompt(9, 1));
        assert_eq!(prefixes.matched(&prompt(9, 1)), 4);
    }

    #[test]
    fn a_new_group_has_nothing_and_an_answer_that_does_not_say_changes_nothing() {
        let mut prefixes = of_limit(6);
        prefixes.remember(&prompt(3, 1));
        prefixes.note(1, 6);
        prefixes.note(0, 0);
        assert_eq!(prefixes.matched(&prompt(3, 1)), 3);
        prefixes.note(2, 6);
        assert_eq!(prefixes.matched(&prompt(3, 1)), 0);
    }
}
