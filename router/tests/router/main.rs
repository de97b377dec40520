//! The router over real gRPC and real HTTP, in front of coordinators that do as they are told.

mod bad_input;
mod fake;
mod failover;
mod generate;
mod grpc;
mod harness;
mod http;
mod images;
mod openai;
mod overload;
