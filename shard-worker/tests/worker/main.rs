//! Workers over real gRPC, driven by hand with the tiny checkpoint as a coordinator would.

mod citizen;
mod golden;
mod groups;
mod harness;
mod loading;
mod refusals;
