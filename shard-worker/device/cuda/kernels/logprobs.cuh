// Log-probabilities under the raw distribution.

/// More are never asked for.
constexpr int MAX_TOP = 1024;
/// How far below the best logit the most probable tokens are looked for at first.
constexpr float TOP_WIDTH = 32;

/// Log of the sum of the exponentials, in f64; its order depends on `vocab` alone.
__device__ __forceinline__ double log_sum(const LogitRow& row, Best best) {
    double max = double(best.logit()), sum = 0;
    row.for_ids([&](float logit, int) { sum = __dadd_rn(sum, exp(double(logit) - max)); });
    return max + log(block_sum<LOGIT_WARPS>(sum));
}

/// Writes the ids of the `top` most probable tokens, then their log-probabilities, most probable first.
__device__ __forceinline__ void write_top(const LogitRow& row, Best best, double sum, int top, float* ids, float* values, Scratch& scratch) {
    __shared__ u64 found[MAX_TOP];
    __shared__ int count;
    Cut cut = narrow_cut(row, best, {KEY_OF_MINUS_INFINITY, LAST_ID}, TOP_WIDTH, [](u32) { return u64(1); }, [&](u64) { return u64(top); }, scratch);
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    row.for_ids([&](float logit, int id) {
        // The order of the list is nobody's: what counts is the rank in it. A lower id ranks higher.
        u32 key = logit_key(logit);
        if (cut.keeps(key, id)) found[atomicAdd(&count, 1)] = u64(key) << 32 | u32(~id);
    });
    __syncthreads();
    for (int i = int(threadIdx.x); i < top; i += LOGIT_THREADS) {
        int rank = i;
        u32 id = 0xffffffffu;
        float value = minus_infinity();
        if (i < count) {
            rank = 0;
            for (int j = 0; j < count; j++) rank += found[j] > found[i];
            id = ~u32(found[i]);
            value = float(double(key_logit(u32(found[i] >> 32))) - sum);
        }
        ids[rank] = __uint_as_float(id);
        values[rank] = value;
    }
}

/// A row of `out` is `[log-probability of chosen[r] | top ids, as the bits of floats | their log-probabilities]`. All are
/// NaN where the logits are not finite (see `sample`), and that of a `chosen` outside the vocabulary. Where `top`, at
/// most MAX_TOP, is more than the vocabulary the rest has ids of all ones. Grid rows x 1024.
extern "C" __global__ void __launch_bounds__(LOGIT_THREADS, 1)
    logprobs(const float* logits, int /*parts*/, int rows, int part, int vocab, const int* chosen, int top, float* out) {
    wait_for_kernels_ahead();
    __shared__ Scratch scratch;
    LogitRow row = logit_row(logits, rows, part, vocab);
    out += size_t(blockIdx.x) * (1 + 2 * top);
    Best best = find_best(row);
    if (!best.finite()) {
        for (int i = int(threadIdx.x); i < 1 + 2 * top; i += LOGIT_THREADS) out[i] = not_a_number();
        return;
    }
    double sum = log_sum(row, best);
    if (threadIdx.x == 0) {
        int id = chosen[blockIdx.x];
        out[0] = id >= 0 && id < vocab ? float(double(row.at(id)) - sum) : not_a_number();
    }
    if (top > 0) write_top(row, best, sum, top, out + 1, out + 1 + top, scratch);
}
