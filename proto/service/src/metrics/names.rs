//! Every metric's name, with its unit where it has one.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Requests that ended, by `front` (grpc, http) and `outcome` (ok, or the gRPC code).
pub const REQUESTS_TOTAL: &str = "tessera_requests_total";
/// Connections that are open, by `server` (the address it listens on).
pub const CONNECTIONS: &str = "tessera_connections";
/// Connections refused because there were as many as may be, by `server`.
pub const CONNECTIONS_REFUSED_TOTAL: &str = "tessera_connections_refused_total";
/// Requests a router has in hand.
pub const REQUESTS_IN_FLIGHT: &str = "tessera_requests_in_flight";
/// Requests refused, by `reason`.
pub const REFUSALS_TOTAL: &str = "tessera_refusals_total";
/// From a request's arrival to its first token.
pub const TIME_TO_FIRST_TOKEN_SECONDS: &str = "tessera_time_to_first_token_seconds";
/// Between two tokens of a sequence.
pub const INTER_TOKEN_SECONDS: &str = "tessera_inter_token_seconds";
/// A whole request.
pub const REQUEST_SECONDS: &str = "tessera_request_seconds";
/// Time in the coordinator's queue; recorded there.
pub const QUEUE_SECONDS: &str = "tessera_queue_seconds";
/// Fetching and preparing one image.
pub const IMAGE_PREPARE_SECONDS: &str = "tessera_image_prepare_seconds";
/// Images taken in.
pub const IMAGES_TOTAL: &str = "tessera_images_total";
/// Prompt tokens taken in, image tokens included.
pub const PROMPT_TOKENS_TOTAL: &str = "tessera_prompt_tokens_total";
/// Tokens generated.
pub const GENERATED_TOKENS_TOTAL: &str = "tessera_generated_tokens_total";
/// Streams that moved to another replica.
pub const REPLAYS_TOTAL: &str = "tessera_replays_total";
/// Replicas a router knows to be ready.
pub const REPLICAS_READY: &str = "tessera_replicas_ready";
/// Sequences in steps, by `replica`.
pub const RUNNING_SEQUENCES: &str = "tessera_running_sequences";
/// Requests that wait for a place, by `replica`.
pub const WAITING_REQUESTS: &str = "tessera_waiting_requests";
/// Prompt tokens that wait for a place, by `replica`; what autoscaling looks at.
pub const QUEUED_TOKENS: &str = "tessera_queued_tokens";
/// Blocks of the paged cache, by `replica`.
pub const KV_BLOCKS: &str = "tessera_kv_blocks";
/// Blocks in use, by `replica`.
pub const KV_BLOCKS_USED: &str = "tessera_kv_blocks_used";
/// Sequences pushed out to be computed again.
pub const PREEMPTIONS_TOTAL: &str = "tessera_preemptions_total";
/// Tokens that were not computed because the paged cache had their keys and values.
pub const PREFIX_CACHE_HIT_TOKENS_TOTAL: &str = "tessera_prefix_cache_hit_tokens_total";
/// A step, from sending the plan to the last answer.
pub const STEP_SECONDS: &str = "tessera_step_seconds";
/// Tokens in a step.
pub const STEP_TOKENS: &str = "tessera_step_tokens";
/// Groups formed, by `cause`.
pub const GROUPS_FORMED_TOTAL: &str = "tessera_groups_formed_total";
/// 1 from the loss of a rank until workers are claimed for the next group, by `replica` and `rank`.
pub const RANK_LOST: &str = "tessera_rank_lost";
/// How long the registry has answered nothing, by `replica`; 0 while it answers. Until it does, no loss is made good.
pub const REGISTRY_AWAY_SECONDS: &str = "tessera_registry_away_seconds";
/// A rank's step, by `stage` (encode, forward, sample, collective).
pub const RANK_STAGE_SECONDS: &str = "tessera_rank_stage_seconds";
/// Weights a rank holds, by `worker`.
pub const RANK_WEIGHT_BYTES: &str = "tessera_rank_weight_bytes";
/// 1 where small sums over a rank's group go through the GPUs' own memory, by `worker`.
pub const RANK_HAS_PEERS: &str = "tessera_rank_has_peers";

/// Says what each metric means.
pub(super) fn describe() {
    describe_counter!(REQUESTS_TOTAL, "Requests that ended");
    describe_gauge!(CONNECTIONS, "Open connections");
    describe_counter!(CONNECTIONS_REFUSED_TOTAL, "Connections refused because there were as many as may be");
    describe_gauge!(REQUESTS_IN_FLIGHT, "Requests in hand");
    describe_counter!(REFUSALS_TOTAL, "Requests refused");
    describe_histogram!(TIME_TO_FIRST_TOKEN_SECONDS, Unit::Seconds, "From a request's arrival to its first token");
    describe_histogram!(INTER_TOKEN_SECONDS, Unit::Seconds, "Between two tokens of a sequence");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "A whole request");
    describe_histogram!(QUEUE_SECONDS, Unit::Seconds, "Time in the queue");
    describe_histogram!(IMAGE_PREPARE_SECONDS, Unit::Seconds, "Fetching and preparing one image");
    describe_counter!(IMAGES_TOTAL, "Images taken in");
    describe_counter!(PROMPT_TOKENS_TOTAL, "Prompt tokens taken in");
    describe_counter!(GENERATED_TOKENS_TOTAL, "Tokens generated");
    describe_counter!(REPLAYS_TOTAL, "Streams that moved to another replica");
    describe_gauge!(REPLICAS_READY, "Replicas known to be ready");
    describe_gauge!(RUNNING_SEQUENCES, "Sequences in steps");
    describe_gauge!(WAITING_REQUESTS, "Requests that wait for a place");
    describe_gauge!(QUEUED_TOKENS, "Prompt tokens that wait for a place");
    describe_gauge!(KV_BLOCKS, "Blocks of the paged cache");
    describe_gauge!(KV_BLOCKS_USED, "Blocks in use");
    describe_counter!(PREEMPTIONS_TOTAL, "Sequences pushed out to be computed again");
    describe_counter!(PREFIX_CACHE_HIT_TOKENS_TOTAL, "Tokens not computed because the cache had them");
    describe_histogram!(STEP_SECONDS, Unit::Seconds, "A step, from sending the plan to the last answer");
    describe_histogram!(STEP_TOKENS, "Tokens in a step");
    describe_counter!(GROUPS_FORMED_TOTAL, "Groups formed");
    describe_gauge!(RANK_LOST, "Whether a rank was lost, and nobody claimed yet for the next group");
    describe_gauge!(REGISTRY_AWAY_SECONDS, Unit::Seconds, "How long the registry has answered nothing");
    describe_histogram!(RANK_STAGE_SECONDS, Unit::Seconds, "A rank's step by stage");
    describe_gauge!(RANK_WEIGHT_BYTES, Unit::Bytes, "Weights a rank holds");
    describe_gauge!(RANK_HAS_PEERS, "Whether small sums over a rank's group go through the GPUs' own memory");
}
