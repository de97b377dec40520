//! The forward pass against the reference programs' values, its own promises, and broken input.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod by_image;
mod cases;
mod checkpoints;
mod cuda;
mod driver;
mod equality;
mod golden;
mod layouts;
mod npz;
mod plans;
mod quantised;
mod reference;
mod shapes;
