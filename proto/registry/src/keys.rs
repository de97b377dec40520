//! Where records lie in the store; a layout that cannot live beside this one takes another version.

pub(crate) const ROOT: &str = "/tessera/v1/";
/// Before a worker's id.
pub(crate) const WORKERS: &str = "/tessera/v1/workers/";
/// Before the id of the worker that is held.
pub(crate) const CLAIMS: &str = "/tessera/v1/claims/";
/// Before a replica's id.
pub(crate) const REPLICAS: &str = "/tessera/v1/replicas/";
/// Before a lease's id, in hexadecimal.
pub(crate) const LEASES: &str = "/tessera/v1/leases/";
