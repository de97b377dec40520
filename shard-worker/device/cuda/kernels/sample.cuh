// Choosing a token: greedy, or min-p, top-k, top-p and a draw, as shard-worker/model/src/sampling does.

/// Weights relative to the best token's, in fixed point: a sum of them is exact, whatever its order.
struct Weights {
    double max, per_degree;

    __device__ double relative(u32 key) const { return exp((double(key_logit(key)) - max) * per_degree); }
    __device__ u64 operator()(u32 key) const { return __double2ull_rn(relative(key) * 0x1p40); }
};

/// The drawn token of a row with a best one that is finite, at a temperature above 0.
__device__ __forceinline__ int draw(const LogitRow& row, Best best, const SampleRow& params, Scratch& scratch) {
    Weights weights = {double(best.logit()), 1.0 / double(params.temperature)};
    double floor = double(params.min_p);
    // What weighs nothing in fixed point can't be drawn, and counts for no filter.
    u32 lightest = lowest_key(KEY_OF_MINUS_INFINITY, best.key, [&](u32 key) { return weights.relative(key) >= floor && weights(key) > 0; });
    Cut cut = {lightest, LAST_ID};
    float width = best.logit() - key_logit(lightest);
    if (params.top_k > 0)
        cut = narrow_cut(row, best, cut, width, [](u32) { return u64(1); }, [&](u64) { return u64(params.top_k); }, scratch);
    if (params.top_p < 1.0f) {
        // The bins reach no further than what top-k left.
        width = best.logit() - key_logit(cut.key);
        cut = narrow_cut(row, best, cut, width, weights, [&](u64 total) { return u64(ceil(double(params.top_p) * double(total))); }, scratch);
    }
    auto kept = [&](u32 key, int id) { return cut.keeps(key, id) ? weights(key) : 0; };
    auto share = [&](u64 total) {
        u64 target = u64(params.uniform * double(total));
        return target < total ? target : total - 1;
    };
    return locate(row, kept, share, scratch);
}

/// `tokens[r]`: at temperature 0 the highest logit, the lowest id among equals; else the token drawn at the share
/// `uniform`. `finite[r]` is 0, and the token 0, where a logit is NaN or +inf or all are -inf. `logits` is
/// `[parts][rows][part]`, `vocab` of the ids count. Grid rows x 1024.
extern "C" __global__ void __launch_bounds__(LOGIT_THREADS, 1)
    sample(const float* logits, int /*parts*/, int rows, int part, int vocab, const SampleRow* row_params, u32* tokens, int* finite) {
    wait_for_kernels_ahead();
    __shared__ Scratch scratch;
    LogitRow row = logit_row(logits, rows, part, vocab);
    Best best = find_best(row);
    SampleRow params = row_params[blockIdx.x];
    int token = best.finite() ? best.id : 0;
    if (best.finite() && params.temperature > 0) token = draw(row, best, params, scratch);
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = u32(token);
        finite[blockIdx.x] = best.finite();
    }
}
