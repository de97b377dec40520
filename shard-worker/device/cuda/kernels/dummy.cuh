// Made-up weights, the same as shard-worker/device/src/made_up.rs makes.

/// The output function of SplitMix64.
__device__ __forceinline__ u64 mix(u64 x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/// One of 256 evenly spaced numbers around `centre`.
__device__ __forceinline__ float dummy_level(u32 level, float centre, float spread) {
    float offset = __fmul_rn(spread, float(level) + 0.5f - 128.0f);
    return __fadd_rn(centre, __fmul_rn(offset, 1.0f / 128.0f));
}

/// Rows `first_row..` and columns `first_col..first_col + cols` of a tensor, as `[rows, cols]`. `key` is
/// mix(seed ^ FNV-1a of the tensor's name); a hash of the row and of the column / 8 gives 8 neighbours a byte each.
/// Grid (rows, any) x 256.
extern "C" __global__ void __launch_bounds__(256)
    fill_dummy(bf16* out, u64 key, long long first_row, int first_col, int cols, float centre, float spread) {
    wait_for_kernels_ahead();
    u64 row_key = mix(key ^ u64(first_row + blockIdx.x));
    out += size_t(blockIdx.x) * cols;
    auto fill = [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        int column = first_col + i;
        u64 bytes = mix(row_key + u64(column / 8)) >> column % 8 * 8;
        Run<N> run;
        for (int j = 0; j < N; j++) run.v[j] = dummy_level(u32(bytes >> 8 * j) & 0xff, centre, spread);
        store(out + i, run);
    };
    if (first_col % 8 == 0)
        for_columns(cols, fill);
    else
        for_runs<1>(cols, fill);
}
