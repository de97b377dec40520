//! Workers over real gRPC, driven by hand with the tiny checkpoint as a coordinator would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "these are tests")]

mod citizen;
mod golden;
mod groups;
mod harness;
mod loading;
mod refusals;
mod sim;
