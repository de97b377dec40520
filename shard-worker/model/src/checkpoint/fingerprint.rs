//! Which weights these are, told without reading them.

use std::fmt;

use tessera_types::Fnv1a;

/// Two sources with equal fingerprints have the same weights, as far as their configurations, their files' headers and
/// lengths, samples of their data and their times of change tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of what is in the files; copies on several hosts have the same.
    content: Fnv1a,
    /// Of when they were changed, which differs between copies.
    changed: Fnv1a,
}

impl Fingerprint {
    /// Of a configuration.
    pub(super) fn of(configuration: &[u8]) -> Self {
        let mut fingerprint = Self { content: Fnv1a::default(), changed: Fnv1a::default() };
        fingerprint.content(configuration);
        fingerprint
    }

    pub(super) fn content(&mut self, bytes: &[u8]) {
        // What comes next must not be taken for part of this.
        self.content = self.content.and(&(bytes.len() as u64).to_le_bytes()).and(bytes);
    }

    pub(super) fn changed(&mut self, nanoseconds: u128) {
        self.changed = self.changed.and(&nanoseconds.to_le_bytes());
    }
}

/// The content's part alone: ranks compare it, wherever their files lie.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.content.finish())
    }
}
