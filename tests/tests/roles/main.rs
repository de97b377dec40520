//! Every role as a process of its own, with given addresses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

mod certificates;
mod collector;
mod replica;
mod tls;
mod traces;
