// Choosing a token: greedy, or min-p, top-k, top-p and a draw, as shard-worker/model/src/sampling does.

/// `share` of `total`, rounded down, and at least 1. `share` is below 1.
__device__ __forceinline__ u64 share_of(float share, u64 total) {
    u64 part = __umul64hi(u64(__fmul_rn(share, 0x1p64f)), total);
    return part > 0 ? part : 1;
}

/// The drawn token of a row with a best one that is finite, at a temperature above 0.
__device__ __forceinline__ int draw(const LogitRow& row, Best best, const SampleRow& params, Scratch& scratch) {
    Weights weights(best.logit(), params.temperature);
    // What weighs nothing in fixed point can't be drawn, and counts for no filter.
    u64 least = u64(fmaxf(ceilf(__fmul_rn(params.min_p, 0x1p40f)), 1));
    u32 lightest = lowest_key(KEY_OF_MINUS_INFINITY, best.key, [&](u32 key) { return weights(key) >= least; });
    Cut cut = {lightest, LAST_ID};
    float width = best.logit() - key_logit(lightest);
    if (params.top_k > 0)
        cut = narrow_cut(row, best, cut, width, [](u32) { return u64(1); }, [&](u64) { return u64(params.top_k); }, scratch);
    if (params.top_p < 1.0f) {
        // The bins reach no further than what top-k left.
        width = best.logit() - key_logit(cut.key);
        cut = narrow_cut(row, best, cut, width, weights, [&](u64 total) { return share_of(params.top_p, total); }, scratch);
    }
    auto kept = [&](u32 key, int id) { return cut.keeps(key, id) ? weights(key) : 0; };
    return locate(row, kept, [&](u64 total) { return __umul64hi(params.uniform, total); }, scratch);
}

/// `tokens[r]`: the one given; or at temperature 0 the highest logit, the lowest id among equals; else the token drawn at
/// the share `uniform`. `finite[r]` is 0, and the token 0, where a logit is NaN or +inf or all are -inf. `logits` is
/// `[parts][rows][part]`, `vocab` of the ids count. Grid rows x 1024.
extern "C" __global__ void __launch_bounds__(LOGIT_THREADS, 1)
    sample(const float* logits, int /*parts*/, int rows, int part, int vocab, const SampleRow* row_params, u32* tokens, int* finite) {
    wait_for_kernels_ahead();
    __shared__ Scratch scratch;
    LogitRow row = logit_row(logits, rows, part, vocab);
    Best best = find_best(row);
    SampleRow params = row_params[blockIdx.x];
    u32 token = 0;
    if (best.finite()) {
        if (params.given != NONE)
            token = params.given;
        else
            token = u32(params.temperature > 0 ? draw(row, best, params, scratch) : best.id);
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = token;
        finite[blockIdx.x] = best.finite();
    }
}
