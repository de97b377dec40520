//! Scheduler, block allocator and sequence state; pure, no clock, no I/O
