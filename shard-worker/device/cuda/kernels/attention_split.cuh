// attend_split_{32,64,128} and attend_combine_{32,64,128}: rows that each see a sequence of their own, as in decode;
// attend_split8_{32,64,128}: over keys and values of e4m3.
//
// attend_split: splits of 128 keys, for the query heads (1 to 16) of one key head. The splits of all rows, one row's after
// the other's, are dealt out in runs: whether one row has them or many, every block has as many, give or take one.
//   grid    (kv_heads, any number): block (.., y) computes run y of the splits; best as many as run at once
//   block   128
//   shared  544 HD + 5376 bytes, dynamic (attend_split_shared): three blocks to an SM of an H100; attend_split8: 288 HD + 7424
//           bytes (attend_split8_shared)
//   limit   memory: keys and values are read once, 512 HD bytes a split and key head, or 256 HD + 1024 of e4m3 and its scales;
//           3.35 TB/s on an H100. Each number of e4m3 is widened by one lane, in registers
// attend_combine: merges the splits of a row, in order of position; a row of length 0 becomes zeros.
//   grid    (heads, rows)
//   block   HD
//   shared  256 HD + 1024 bytes, static
//   limit   memory, mostly L2: 4 HD + 16 bytes a split and head
//
// partials: for each row f32 [heads][its splits][4 + HD], one row's behind the other's: the largest score times scale
// log2 e, the sum of the weights, two unused, the weighted values. `count` rows are given, one at least.

/// Shared memory of attend_split beside the keys and the values.
struct SplitExchange {
    uint4 weights[SPLIT_STEPS][WARP_LANES];
    float most[4][16], sums[4][16][4];
};
constexpr int SPLIT_WARPS = 4;
constexpr int SPLIT_THREADS = SPLIT_WARPS * WARP_LANES;
/// Numbers of a partial before the weighted values.
constexpr int PARTIAL_HEAD = 4;

constexpr int attend_split_shared(int head_dim) { return (2 * SPLIT_KEYS + QUERIES) * head_dim * int(sizeof(bf16)) + int(sizeof(SplitExchange)); }
constexpr int attend_split8_shared(int head_dim) { return (SPLIT_KEYS + QUERIES) * head_dim * int(sizeof(bf16)) + int(sizeof(SplitExchange) + 2 * sizeof(SplitScales)); }
static_assert(attend_split_shared(128) == 544 * 128 + 5376 && attend_split8_shared(128) == 288 * 128 + 7424, "the comment above");

/// Scores of a warp's quarter become weights, which all warps then find in `shared`, multiplied by their values' scales where there
/// are any; returns the row's largest scores.
template <bool SCALED>
__device__ __forceinline__ void weigh_quarter(float (&scores)[QUARTER_TILES][4], const SplitScales* scales, SplitExchange& shared, float factor,
                                              float (&most)[2]) {
    int row = lane_id() / 4;
    for (int half = 0; half < 2; half++) {
        most[half] = minus_infinity();
        for (int warp = 0; warp < SPLIT_WARPS; warp++) most[half] = fmaxf(most[half], shared.most[warp][row + half * 8]);
    }
    weigh(scores, most, factor);
    for (int half = 0; half < 2; half++) shared.sums[warp_id()][row + half * 8][lane_id() % 4] = add_quarter(scores, 0, half);
    if constexpr (SCALED) scale_keys(scores, scales->values + warp_id() * QUARTER_KEYS);
#pragma unroll
    for (int tile = 0; tile < QUARTER_TILES; tile += 2) {
        u32 a[4];
        pack_weights(scores, tile, a);
        shared.weights[(warp_id() * QUARTER_TILES + tile) / 2][lane_id()] = make_uint4(a[0], a[1], a[2], a[3]);
    }
}

/// Writes a warp's quarter of the columns, and warp 0 what the weights are relative to and their sum.
template <int HD>
__device__ __forceinline__ void write_partial(float* to, const SplitExchange& shared, const float (&sums)[HD / QUARTER_KEYS][4], float most,
                                              float factor, int half, bool there) {
    if (warp_id() == 0) {
        float sum = 0;
        for (int warp = 0; warp < SPLIT_WARPS; warp++) sum = __fadd_rn(sum, shared.sums[warp][lane_id() / 4 + half * 8][lane_id() % 4]);
        sum = add_lanes(sum);
        if (there && lane_id() % 4 == 0) *reinterpret_cast<float2*>(to) = make_float2(__fmul_rn(most, factor), sum);
    }
    if (!there) return;
    to += PARTIAL_HEAD + warp_id() * (HD / SPLIT_WARPS) + lane_id() % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < HD / QUARTER_KEYS; tile++) *reinterpret_cast<float2*>(to + tile * 8) = make_float2(sums[tile][half * 2], sums[tile][half * 2 + 1]);
}

/// Which row has split `at` of all.
__device__ __forceinline__ int row_of_split(const AttendRow* rows, int count, int at) {
    int begun = 0;
    for (int first = 0; first < count; first += WARP_LANES) {
        const int i = first + lane_id();
        begun += __popc(__ballot_sync(ALL_LANES, i < count && rows[i].first <= at));
    }
    return begun - 1;
}

/// A split of a row's.
struct SplitAt {
    int index, split;
    AttendRow row;

    /// The split behind this one, which there must be.
    __device__ __forceinline__ SplitAt next(const AttendRow* rows) const {
        if (split + 1 < splits_of(row)) return {index, split + 1, row};
        int at = index + 1;
        while (rows[at].length == 0) at++;
        return {at, 0, rows[at]};
    }
};

template <int HD, class KV>
__device__ __forceinline__ void attend_split(const bf16* qkv, const KV* keys, const KV* values, const int* tables, const AttendRow* rows,
                                             float* partials, int heads, int kv_heads, int count, float scale) {
    wait_for_kernels_ahead();
    DYNAMIC_SHARED(uint4, shared_keys);
    constexpr bool SCALED = sizeof(KV) == 1;
    uint4 *shared_values = shared_keys + SPLIT_PIECES<HD, KV>, *queries = shared_values + SPLIT_PIECES<HD, KV>;
    SplitExchange& exchange = *reinterpret_cast<SplitExchange*>(queries + QUERY_PIECES<HD>);
    // Those of two splits by turns: the values' are read when the next split's come.
    SplitScales *scales = reinterpret_cast<SplitScales*>(&exchange + 1), *next_scales = scales + 1;
    const int kv_head = int(blockIdx.x), group = heads / kv_heads;
    const int all = rows[count - 1].first + splits_of(rows[count - 1]), run = all / int(gridDim.y), longer = all % int(gridDim.y);
    const int begin = int(blockIdx.y) * run + min(int(blockIdx.y), longer);
    int left = run + (int(blockIdx.y) < longer ? 1 : 0);
    if (left == 0) return;
    const auto source = [=](const SplitAt& at) { return PagedKeys<HD, KV>{keys, values, tables + at.row.table, kv_heads, kv_head, at.row.length}; };
    const auto copy_row = [=](const SplitAt& at) {
        const bf16* from = qkv + (size_t(at.row.row) * (heads + 2 * kv_heads) + kv_head * group) * HD;
        if (warp_id() == 0) copy_queries<HD>([=](int i) { return i < group ? from + i * HD : nullptr; }, queries);
    };
    SplitAt at;
    at.index = row_of_split(rows, count, begin), at.row = rows[at.index], at.split = begin - at.row.first;
    int blocks = source(at).look_up(at.split);
    copy_split<HD, SPLIT_THREADS>(source(at), keys, at.split, blocks, shared_keys);
    if constexpr (SCALED) copy_scales(source(at), at.split, blocks, *scales);
    copy_row(at);
    copy_async_commit();
    copy_split<HD, SPLIT_THREADS>(source(at), values, at.split, blocks, shared_values);
    copy_async_commit();

    const float factor = __fmul_rn(scale, LOG2_E);
    const int query = lane_id() / 4;
    for (; left > 0; left--) {
        const bool more = left > 1;
        const SplitAt next = more ? at.next(rows) : at;
        blocks = source(next).look_up(next.split);
        copy_async_wait<1>();
        __syncthreads();
        float scores[QUARTER_TILES][4], most[2];
        score<HD, KV>(queries, shared_keys + warp_id() * (SPLIT_PIECES<HD, KV> / SPLIT_WARPS), scores);
        if constexpr (SCALED) scale_keys(scores, scales->keys + warp_id() * QUARTER_KEYS);
        const int visible = at.row.length - at.split * SPLIT_KEYS, bounds[2] = {visible, visible};
        if (visible < SPLIT_KEYS) hide(scores, warp_id() * QUARTER_KEYS, bounds);
        largest(scores, most);
        if (lane_id() % 4 == 0) exchange.most[warp_id()][query] = most[0], exchange.most[warp_id()][query + 8] = most[1];
        __syncthreads();
        if (more) {
            copy_split<HD, SPLIT_THREADS>(source(next), keys, next.split, blocks, shared_keys);
            if constexpr (SCALED) copy_scales(source(next), next.split, blocks, *next_scales);
        }
        if (next.index != at.index) copy_row(next);
        copy_async_commit();
        weigh_quarter<SCALED>(scores, scales, exchange, factor, most);
        copy_async_wait<1>();
        __syncthreads();
        u32 weights[SPLIT_STEPS][4];
#pragma unroll
        for (int step = 0; step < SPLIT_STEPS; step++) {
            uint4 a = exchange.weights[step][lane_id()];
            weights[step][0] = a.x, weights[step][1] = a.y, weights[step][2] = a.z, weights[step][3] = a.w;
        }
        const size_t splits = size_t(splits_of(at.row));
        float* to = partials + (size_t(at.row.first) * heads + (kv_head * group + query) * splits + at.split) * (PARTIAL_HEAD + HD);
        float sums[HD / QUARTER_KEYS][4];
        weighted_sum<HD, KV>(weights, shared_values, warp_id() * (HD / QUARTER_KEYS), visible, sums);
#pragma unroll
        for (int half = 0; half < 2; half++)
            write_partial<HD>(to + half * 8 * splits * (PARTIAL_HEAD + HD), exchange, sums, most[half], factor, half, query + half * 8 < group);
        __syncthreads();
        if (more) copy_split<HD, SPLIT_THREADS>(source(next), values, next.split, blocks, shared_values);
        copy_async_commit();
        SplitScales* const free = scales;
        at = next, scales = next_scales, next_scales = free;
    }
    copy_async_wait<0>();
}

/// Splits that attend_combine reads at a time: one for each lane.
constexpr int COMBINED = WARP_LANES;

/// A thread merges a column. Of the splits at hand each lane has what one is merged with: that needs the largest score of
/// all before it, and no more. Meanwhile the next ones are under way.
template <int HD>
__device__ __forceinline__ void attend_combine(const float* partials, const AttendRow* rows, bf16* out, int heads) {
    wait_for_kernels_ahead();
    constexpr int NUMBERS = PARTIAL_HEAD + HD, PIECES = NUMBERS / 4;
    __shared__ uint4 shared[2][COMBINED * PIECES];
    const int head = int(blockIdx.x), column = int(threadIdx.x);
    const AttendRow row = rows[blockIdx.y];
    const int splits = splits_of(row);
    const uint4* partial = reinterpret_cast<const uint4*>(partials + (size_t(row.first) * heads + size_t(head) * splits) * NUMBERS);
    const auto copy = [&](int first) {
        uint4* to = shared[first / COMBINED % 2];
        for (int i = column; i < min(COMBINED, splits - first) * PIECES; i += HD) copy_async_16(to + i, partial + size_t(first) * PIECES + i);
        copy_async_commit();
    };
    Merged merged;
    float value = 0;
    copy(0);
    for (int first = 0; first < splits; first += COMBINED) {
        copy_async_wait<0>();
        __syncthreads();
        copy(first + COMBINED);
        const float* at = reinterpret_cast<const float*>(shared[first / COMBINED % 2]);
        const int count = min(COMBINED, splits - first);
        const float most = lane_id() < count ? at[lane_id() * NUMBERS] : minus_infinity();
        float with = fmaxf(most, merged.most);
        for (int by = 1; by < WARP_LANES; by *= 2) {
            const float before = __shfl_up_sync(ALL_LANES, with, by);
            if (lane_id() >= by) with = fmaxf(with, before);
        }
        const float before = __shfl_up_sync(ALL_LANES, with, 1);
        const MergeFactors mine = merge_factors(lane_id() ? before : merged.most, with, most);
#pragma unroll 4
        for (int i = 0; i < count; i++) {
            const MergeFactors factors{__shfl_sync(ALL_LANES, mine.before, i), __shfl_sync(ALL_LANES, mine.added, i)};
            merged.sum = merge(merged.sum, at[i * NUMBERS + 1], factors);
            value = merge(value, at[i * NUMBERS + PARTIAL_HEAD + column], factors);
        }
        merged.most = __shfl_sync(ALL_LANES, with, WARP_LANES - 1);
    }
    copy_async_wait<0>();
    out[(size_t(row.row) * heads + head) * HD + column] = to_bf16(splits ? __fmul_rn(value, share(merged.sum)) : 0);
}

#define ATTEND_SPLIT(name, HD, KV)                                                                                                                           \
    extern "C" __global__ void __launch_bounds__(SPLIT_THREADS, 3)                                                                                           \
        name##_##HD(const bf16* qkv, const KV* keys, const KV* values, const int* tables,                \
                    const AttendRow* rows, float* __restrict__ partials, int heads, int kv_heads, int count, float scale) {                     \
        attend_split<HD>(qkv, keys, values, tables, rows, partials, heads, kv_heads, count, scale);                                                          \
    }
#define ATTEND_SPLITS(HD)                                                                                                                                    \
    ATTEND_SPLIT(attend_split, HD, bf16)                                                                                                                     \
    ATTEND_SPLIT(attend_split8, HD, e4m3)                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(HD)                                                                                                         \
        attend_combine_##HD(const float* partials, const AttendRow* rows, bf16* __restrict__ out, int heads) {                                               \
        attend_combine<HD>(partials, rows, out, heads);                                                                                                      \
    }
ATTEND_SPLITS(32)
ATTEND_SPLITS(64)
ATTEND_SPLITS(128)
#undef ATTEND_SPLITS
#undef ATTEND_SPLIT
