//! Ranks on GPUs, as processes, over libraries that run CUDA's and NCCL's calls on the CPU (`device/cuda/fake`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "these are tests")]

mod child;
mod failures;
mod fakes;
mod gpu;
mod libraries;
mod ranks;
mod suite;
