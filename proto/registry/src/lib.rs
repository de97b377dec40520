//! Membership: leases, claims and epochs
