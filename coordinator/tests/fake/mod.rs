//! A whole replica on fake shard workers, over real gRPC.

pub(crate) mod replica;
pub(crate) mod tokens;
pub(crate) mod worker;
