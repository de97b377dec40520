//! FNV-1a: bytes of any length as a number that is the same on every host and in every version. It names; it protects
//! nothing.

/// FNV-1a of 64 bits in the making (<http://www.isthe.com/chongo/tech/comp/fnv/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv1a {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> u64 {
        Self::default().and(bytes).finish()
    }

    /// With more bytes behind those it has.
    #[must_use]
    pub fn and(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// The hash of all bytes.
    pub fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the vectors that the authors publish.
    #[test]
    fn published_vectors_have_their_hashes() {
        for (text, hash) in [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)] {
            assert_eq!(Fnv1a::of(text.as_bytes()), hash, "{text}");
        }
        assert_eq!(Fnv1a::default().and(b"foo").and(b"bar").finish(), Fnv1a::of(b"foobar"));
    }
}
