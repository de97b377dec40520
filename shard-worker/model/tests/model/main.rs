//! The forward pass against the reference programs' values, its own promises, and broken input.

mod cases;
mod checkpoints;
mod driver;
mod equality;
mod golden;
mod npz;
mod plans;
mod reference;
mod shapes;
