//! The scheduler: which tokens of which sequences run in the next step, and what a step's output means.
//!
//! Pure: time comes in as a [`Duration`](std::time::Duration) since any fixed start, requests and step outputs come
//! in as calls, plans and [`Event`]s come out. [`Engine`] is the whole surface.
//!
//! Priority and arrival order the waiting queue. Once admitted, a sequence is served by the order of admission alone:
//! when blocks run out the newest gives way and is later recomputed, the oldest never does, so whatever was admitted
//! finishes.
//!
//! Full blocks of the paged cache are found again by what is in them: a sequence that begins like another one starts
//! behind what the cache has of that beginning.

mod blocks;
mod config;
mod engine;
mod event;
mod images;
mod queue;
mod request;
mod sequence;
mod stats;

pub use config::{ConfigError, EngineConfig};
pub use engine::{Engine, OutputError};
pub use event::{Event, FinishReason, RequestNumber, RequestTimings};
pub use queue::Admission;
pub use request::{NewRequest, NewSequence, Refusal};
pub use stats::Stats;
