//! Which weights these are, told without reading them.

use std::fmt;

/// Two sources with equal fingerprints have the same weights, as far as their configurations, their files' headers and
/// lengths, samples of their data and their times of change tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of what is in the files; copies on several hosts have the same.
    content: u64,
    /// Of when they were changed, which differs between copies.
    changed: u64,
}

impl Fingerprint {
    /// Of a configuration.
    pub(super) fn of(configuration: &[u8]) -> Self {
        let mut fingerprint = Self { content: 0xcbf2_9ce4_8422_2325, changed: 0xcbf2_9ce4_8422_2325 };
        fingerprint.content(configuration);
        fingerprint
    }

    pub(super) fn content(&mut self, bytes: &[u8]) {
        self.content = hash(self.content, bytes);
    }

    pub(super) fn changed(&mut self, nanoseconds: u128) {
        self.changed = hash(self.changed, &nanoseconds.to_le_bytes());
    }
}

/// The content's part alone: ranks compare it, wherever their files lie.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.content)
    }
}

/// FNV-1a, with the length in front.
fn hash(from: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let from = (bytes.len() as u64).to_le_bytes().into_iter().fold(from, step);
    bytes.iter().copied().fold(from, step)
}
