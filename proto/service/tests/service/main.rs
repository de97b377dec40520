//! Facts about a process that others call: how it serves, tells how it is, and ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "these are tests")]

mod health;
mod metrics;
mod pki;
mod reflection;
mod server;
mod signals;
mod status;
mod support;
mod tls;
mod traces;
