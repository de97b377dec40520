//! Every role as a process of its own, with given addresses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

mod certificates;
mod clients;
mod collector;
mod replica;
mod strangers;
mod tls;
mod traces;
