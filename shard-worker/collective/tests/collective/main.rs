//! One suite for every transport: what is summed, gathered and passed on, and what happens when a rank goes wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "these are tests")]

mod failures;
mod groups;
mod joining;
mod processes;
mod random;
mod suite;
mod sums;
