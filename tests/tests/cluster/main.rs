//! The cluster under fire: real processes, real etcd, and streams that must not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and say why")]

mod coordinators;
mod elastic;
mod gpus;
mod harness;
mod leaving;
mod network;
mod ranks;
mod registry;
mod routers;
mod slow;
mod storms;
