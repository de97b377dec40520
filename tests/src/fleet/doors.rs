//! The routers, as clients know them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// All routers of a fleet.
pub type Doors = Arc<Vec<Door>>;

/// One router's address, and whether we have done something to it: a client may blame nobody else for that.
#[derive(Debug)]
pub struct Door {
    /// `http://HOST:PORT` of its gRPC API.
    pub address: String,
    shut: AtomicBool,
    lives: AtomicU64,
}

impl Door {
    pub(super) fn new(address: String) -> Self {
        Self { address, shut: AtomicBool::new(true), lives: AtomicU64::new(0) }
    }

    /// It takes new requests.
    pub(super) fn open(&self) {
        self.shut.store(false, Ordering::SeqCst);
    }

    /// It takes no new ones from now on; those that it has may end.
    pub(super) fn close(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }

    /// It is about to die.
    pub(super) fn die(&self) {
        self.close();
        self.lives.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether new requests may be brought here.
    pub fn is_open(&self) -> bool {
        !self.shut.load(Ordering::SeqCst)
    }

    /// How often it died; what was open when this changes broke by that.
    pub fn lives(&self) -> u64 {
        self.lives.load(Ordering::SeqCst)
    }
}
