//! Muscle: loads its shard, runs steps
