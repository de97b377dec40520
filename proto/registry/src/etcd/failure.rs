//! What an answer of etcd's that is no success means.

use std::{error::Error as StdError, iter::successors};

use etcd_client::Error;

use crate::{LeaseId, RegistryError};

/// gRPC's codes, by their numbers on the wire.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const ALREADY_EXISTS: i32 = 6;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// Why an attempt on one endpoint failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The endpoint did not answer, or could not tell; what the attempt did is unknown. Another may do better.
    Unknown(String),
    /// The endpoint no longer takes our login: nothing was done, and a new connection may help.
    Stale(String),
    /// The lease in question is not there.
    NoLease,
    /// The lease to be made is there already.
    LeaseExists,
    /// etcd refuses, and would everywhere.
    Denied(String),
}

impl Failure {
    /// Whether other endpoints would say the same.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Unknown(_) | Self::Stale(_))
    }

    /// As the caller of the store sees it.
    pub(super) fn into_error(self, lease: Option<LeaseId>) -> RegistryError {
        match (self, lease) {
            (Self::NoLease, Some(lease)) => RegistryError::LeaseEnded(lease),
            (Self::NoLease, None) => RegistryError::Unavailable("etcd does not know the lease".into()),
            (Self::LeaseExists, _) => RegistryError::Unavailable("the lease exists already".into()),
            (Self::Denied(problem), _) => RegistryError::Denied(problem),
            (Self::Unknown(problem) | Self::Stale(problem), _) => RegistryError::Unavailable(problem),
        }
    }
}

/// Reads an error of the client's.
pub(super) fn read(error: &Error, user: Option<&str>) -> Failure {
    let status = match error {
        Error::GRpcStatus(status) => status,
        // The client's word for an answer that gives the lease no time.
        Error::LeaseKeepAliveError(_) => return Failure::NoLease,
        Error::TransportError(error) => return Failure::Unknown(with_causes(error)),
        error => return Failure::Unknown(error.to_string()),
    };
    let said = status.message();
    let who = || user.map_or_else(|| "without a user".to_owned(), |user| format!("as user {user:?}"));
    match i32::from(status.code()) {
        code::NOT_FOUND if said.contains("lease") => Failure::NoLease,
        code::FAILED_PRECONDITION | code::ALREADY_EXISTS if said.contains("lease already exists") => Failure::LeaseExists,
        code::INVALID_ARGUMENT if said.contains("revision of auth store is old") => Failure::Stale(said.to_owned()),
        // The client logs in anew by itself; a token that is still refused then has been lost by that endpoint.
        code::UNAUTHENTICATED => Failure::Stale(said.to_owned()),
        code::INVALID_ARGUMENT | code::PERMISSION_DENIED | code::FAILED_PRECONDITION => {
            Failure::Denied(format!("{}, {}", said.trim_start_matches("etcdserver: "), who()))
        }
        _ => Failure::Unknown(status.source().map_or_else(|| said.to_owned(), with_causes)),
    }
}

/// "transport error" alone tells nobody whether a port is closed or a certificate is wrong.
fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let causes = successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
