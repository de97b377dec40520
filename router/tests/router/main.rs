//! The router over real gRPC and real HTTP, in front of coordinators that do as they are told.

// A test's helpers may fail like the tests they help.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod failover;
mod fake;
mod generate;
mod golden;
mod grpc;
mod harness;
mod hostile;
mod http;
mod images;
mod life;
mod openai;
mod overload;
mod routing;
mod strangers;
