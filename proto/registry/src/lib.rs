//! Membership: who is there, who drives whom, and under which epoch.
//!
//! A [`Registry`] speaks of workers, replicas and claims. It keeps them in a [`Store`], a small part of what etcd
//! offers: keys under leases, transactions that compare, watches from a revision. [`EtcdStore`] is etcd itself,
//! [`MemoryStore`] one for a single process.
//!
//! | key | value |
//! | --- | --- |
//! | `/tessera/v1/workers/ID` | [`WorkerRecord`] as JSON, under the worker's lease |
//! | `/tessera/v1/claims/WORKER` | [`ClaimRecord`] as JSON, under the coordinator's lease |
//! | `/tessera/v1/replicas/ID` | [`ReplicaRecord`] as JSON, under the coordinator's lease |
//! | `/tessera/v1/leases/LEASE` | empty, under the lease: put only to make sure of a lease that a server of etcd's denied |
//!
//! Nothing else is written, and while nothing happens nothing is: leases are kept alive without a write. A user of
//! etcd's needs to read and write `/tessera/v1/`.

mod bounded;
pub mod conformance;
mod etcd;
mod follow;
mod keep;
mod keys;
mod membership;
mod memory;
mod records;
mod registry;
mod state;
mod store;

pub use etcd::{EtcdConfig, EtcdConfigError, EtcdStore, EtcdTls};
pub use follow::Followed;
pub use keep::{Kept, LeaseState};
pub use membership::{Membership, MembershipChange, MembershipWatch};
pub use memory::MemoryStore;
pub use records::{ClaimRecord, ReplicaRecord, WorkerRecord, WorkerState, device_kind};
pub use registry::Registry;
pub use store::{Change, Compare, Entry, LeaseId, RegistryError, Revision, Store, Watch, Write};
