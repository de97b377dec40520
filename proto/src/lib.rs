//! The wire: the public API, the internal wire, and the only conversions between them and the domain types.

mod convert;
mod details;
mod error;
mod fingerprint;

pub use convert::each;
pub use details::{bad_request, retry_after, retry_delay, violations};
pub use error::WireError;
pub use fingerprint::number_format;

/// The public API, `tessera.v1`.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
    tonic::include_proto!("tessera.v1");
}

/// The internal wire between the processes, `tessera.internal.v1`.
pub mod internal {
    #![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
    tonic::include_proto!("tessera.internal.v1");
}

/// Descriptors of every service, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The metadata of a `Run` that names its group's epoch.
pub const EPOCH_METADATA: &str = "tessera-epoch";

/// The largest message any Tessera service takes: a step plan or request with many images' pixels in it.
pub const MAX_MESSAGE_BYTES: usize = 1 << 30;
