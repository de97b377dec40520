// Log-probabilities under the raw distribution.

/// More are never asked for.
constexpr int MAX_TOP = 32;
/// How far below the best logit the most probable tokens are looked for at first.
constexpr float TOP_WIDTH = 32;
/// ln(2^40), the weights' unit.
constexpr double LOG_OF_ONE = 27.725887222397812;

/// Log of the sum of the exponentials. f64 is for one logarithm a row, and one difference a token.
__device__ __forceinline__ double log_sum(const LogitRow& row, Best best) {
    __shared__ double log_of_row;
    Weights weights(best.logit(), 1);
    u64 sum = 0;
    row.for_ids([&](float logit, int) { sum += weights(logit_key(logit)); });
    sum = block_sum<LOGIT_WARPS>(sum);
    if (threadIdx.x == 0) log_of_row = double(best.logit()) + (log(double(sum)) - LOG_OF_ONE);
    __syncthreads();
    return log_of_row;
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
        u32 id = NONE;
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

/// For rows that are described, `out[r]` is `[log-probability of tokens[r] | top ids, as the bits of floats | their
/// log-probabilities]`, with places for `most` ids, at most MAX_TOP, of which the row's `described` are written. All are
/// NaN where the logits are not finite (see `sample`), and that of a token outside the vocabulary. Where more are asked
/// for than the vocabulary has, the rest has ids of all ones. Grid rows x 1024.
extern "C" __global__ void __launch_bounds__(LOGIT_THREADS, 1)
    logprobs(const float* logits, int /*parts*/, int rows, int part, int vocab, const SampleRow* row_params, const u32* tokens, int most, float* out) {
    wait_for_kernels_ahead();
    __shared__ Scratch scratch;
    u32 described = row_params[blockIdx.x].described;
    if (described == NONE) return;
    LogitRow row = logit_row(logits, rows, part, vocab);
    int top = min(int(described), most);
    out += size_t(blockIdx.x) * (1 + 2 * most);
    Best best = find_best(row);
    if (!best.finite()) {
        for (int i = int(threadIdx.x); i < 1 + 2 * most; i += LOGIT_THREADS) out[i] = not_a_number();
        return;
    }
    double sum = log_sum(row, best);
    if (threadIdx.x == 0) {
        u32 id = tokens[blockIdx.x];
        out[0] = id < u32(vocab) ? float(double(row.at(int(id))) - sum) : not_a_number();
    }
    if (top > 0) write_top(row, best, sum, top, out + 1, out + 1 + most, scratch);
}
