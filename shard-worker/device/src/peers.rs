//! What ranks tell each other so that their devices reach each other's memory.

/// How the device of another rank reaches some memory, as words that only devices look into; all ranks' have the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerOffer(pub(crate) [u32; Self::WORDS]);

impl PeerOffer {
    /// Words of an offer.
    pub const WORDS: usize = 28;
    /// What a device offers that no other can reach.
    pub const NONE: Self = Self([0; Self::WORDS]);

    /// An offer as it came from another rank; what is missing is zero.
    pub fn from_words(words: &[u32]) -> Self {
        Self(std::array::from_fn(|at| words.get(at).copied().unwrap_or(0)))
    }

    /// The words, to be sent to the other ranks.
    pub fn words(&self) -> &[u32] {
        &self.0
    }
}

/// Why a sum over peers came to nothing; so do all later ones, until the device is connected anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFailure {
    /// Whoever has the stop told it to end.
    Stopped,
    /// A rank did not come in time.
    Late,
    /// A rank has ended its own wait.
    Gone,
}

/// Ends what waits for peers, now and later, from any thread; never blocks.
pub type PeerStop = Box<dyn Fn() + Send + Sync>;
