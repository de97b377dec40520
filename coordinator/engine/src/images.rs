//! Encoder outputs held on every rank: which there are, which are in use, which to forget for room.

use std::collections::HashMap;
use std::sync::Arc;

use tessera_types::ImageKey;

/// Keeps one encoder output on the ranks for as long as it lives.
#[derive(Clone, Debug)]
pub(crate) struct Pin {
    _held: Arc<()>,
}

/// Outputs by key within a budget of feature rows. Outputs nobody pins stay for requests that show the same image
/// again, until their room is needed.
#[derive(Debug)]
pub(crate) struct EncoderCache {
    budget: usize,
    used: usize,
    outputs: HashMap<ImageKey, Output>,
    uses: u64,
}

#[derive(Debug)]
struct Output {
    features: usize,
    held: Arc<()>,
    last_use: u64,
}

impl Output {
    fn idle(&self) -> bool {
        Arc::strong_count(&self.held) == 1
    }
}

impl EncoderCache {
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, used: 0, outputs: HashMap::new(), uses: 0 }
    }

    /// Pins an output that the ranks have.
    pub(crate) fn pin(&mut self, key: ImageKey) -> Option<Pin> {
        self.uses += 1;
        let output = self.outputs.get_mut(&key)?;
        output.last_use = self.uses;
        Some(Pin { _held: output.held.clone() })
    }

    /// Makes room for an output that the ranks do not have and pins it, with the keys to forget for it, longest
    /// unused first; `None` while too much is pinned.
    pub(crate) fn insert(&mut self, key: ImageKey, features: usize) -> Option<(Pin, Vec<ImageKey>)> {
        let mut idle: Vec<_> =
            self.outputs.iter().filter(|(_, output)| output.idle()).map(|(&key, o)| (o.last_use, key)).collect();
        idle.sort_unstable();
        let pinned = self.outputs.values().filter(|output| !output.idle()).map(|output| output.features).sum::<usize>();
        if pinned + features > self.budget {
            return None;
        }
        let mut forgotten = Vec::new();
        for (_, key) in idle {
            if self.used + features <= self.budget {
                break;
            }
            self.used -= self.outputs.remove(&key).map_or(0, |output| output.features);
            forgotten.push(key);
        }
        self.used += features;
        self.outputs.insert(key, Output { features, held: Arc::new(()), last_use: 0 });
        self.pin(key).map(|pin| (pin, forgotten))
    }

    /// Feature rows held.
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ImageKey {
        ImageKey([n; 32])
    }

    #[test]
    fn the_longest_unused_output_makes_room() {
        let mut cache = EncoderCache::new(10);
        drop(cache.insert(key(1), 4).unwrap());
        drop(cache.insert(key(2), 4).unwrap());
        drop(cache.pin(key(1)).unwrap());
        let (_, forgotten) = cache.insert(key(3), 4).unwrap();
        assert_eq!(forgotten, [key(2)]);
        assert!(cache.pin(key(1)).is_some() && cache.pin(key(2)).is_none());
        assert_eq!(cache.used(), 8);
    }

    #[test]
    fn a_pinned_output_stays_and_nothing_is_forgotten_in_vain() {
        let mut cache = EncoderCache::new(10);
        let (pin, _) = cache.insert(key(1), 6).unwrap();
        drop(cache.insert(key(2), 4).unwrap());
        assert!(cache.insert(key(3), 5).is_none());
        assert!(cache.pin(key(2)).is_some());
        drop(pin);
        assert!(cache.insert(key(3), 5).is_some());
    }
}
