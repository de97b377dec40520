// What the attention kernels share: the arithmetic of a row, which is the same whoever computes it.
//
// A row's keys are taken in splits of 128, from position 0. In a split, score = q k^T by mma over the head's numbers in
// order; weight = 2^((score - largest) scale log2 e), 0 for a key that the row does not see; the weighted values are
// summed by mma over the keys in order from 0, weights rounded to bf16; the weights themselves are summed as add_quarter
// and add_lanes say. Where the cache has e4m3, the mma take its numbers as bf16, which is exact; a score is then multiplied by
// its key's scale, and a weight, once it is summed, by its value's before it is rounded to bf16, both in f32.
// The splits are merged in order of position by merge_factors and merge. attend_split has a split computed by 4
// warps, a quarter of the keys each and then a quarter of the head's columns each, and attend_combine merges;
// attend_chunk has all of it done by one warp. The bits are the same.
// After: FlashAttention-2 (arXiv:2307.08691), Flash-Decoding (Dao and others, 2023); paged keys as in vLLM.

constexpr int SPLIT_KEYS = 128;
/// The keys whose weights a lane adds up before it adds the sums of the quarters.
constexpr int QUARTER_KEYS = SPLIT_KEYS / 4;
constexpr int QUARTER_TILES = QUARTER_KEYS / 8;
constexpr int SPLIT_TILES = SPLIT_KEYS / 8;
constexpr int SPLIT_STEPS = SPLIT_KEYS / MMA_K;
/// Queries of a tile of mma; query heads that share a key head are no more.
constexpr int QUERIES = 16;
constexpr float LOG2_E = 1.4426950408889634f;

/// Pieces of 16 bytes of a head's numbers, which are KV: bf16 or e4m3.
template <int HD, class KV>
constexpr int HEAD_PIECES = HD * int(sizeof(KV)) / 16;
/// Shared memory for the keys or the values of a split and for the queries of a warp, in pieces of 16 bytes.
template <int HD, class KV>
constexpr int SPLIT_PIECES = SPLIT_KEYS * HEAD_PIECES<HD, KV>;
template <int HD>
constexpr int QUERY_PIECES = QUERIES * HD / PIECE;

/// A row of a decode batch: its row in qkv and out, the keys it sees (its position + 1; 0 for a row that is only there to
/// fill the batch), where its blocks begin in the tables, and how many splits the rows before it have.
struct AttendRow {
    int row, length, table, first;
};

__device__ __forceinline__ int splits_of(const AttendRow& row) { return ceil_div(row.length, SPLIT_KEYS); }

/// Rows of one sequence or image: first row in qkv and out, rows (64 at most), position of the first, where the sequence's
/// blocks begin in the tables. For an image: first query row, rows, first row of the span, rows of the span.
struct AttendTile {
    int row, count, start, table;
};

/// Where a head's keys and values lie in the paged cache.
template <int HD, class KV>
struct PagedKeys {
    const KV *keys, *values;
    const int* table;
    int kv_heads, head;
    /// Keys from here on are not read: they count as zeros.
    int limit;

    /// Lane i has block i of a split.
    __device__ __forceinline__ int look_up(int split) const {
        int block = split * (SPLIT_KEYS / BLOCK_TOKENS) + lane_id() % (SPLIT_KEYS / BLOCK_TOKENS);
        return block * BLOCK_TOKENS < limit ? table[block] : 0;
    }
    /// Where key `row` of a split would be if all blocks were block 0, and how far from there key `row + more` is. `blocks`
    /// is what `look_up` gave; row and more stay within a block or `more` is a multiple of one.
    __device__ __forceinline__ size_t origin(int row) const { return size_t(head) * head_block<KV>(HD) + row % BLOCK_TOKENS * HD; }
    __device__ __forceinline__ size_t way(int blocks, int, int row, int more) const {
        int block = __shfl_sync(ALL_LANES, blocks, row / BLOCK_TOKENS + more / BLOCK_TOKENS);
        return size_t(block) * (kv_heads * head_block<KV>(HD)) + more % BLOCK_TOKENS * HD;
    }
};

/// Begins the copy of a split's keys or values to shared memory.
template <int HD, int THREADS, class Source, class KV>
__device__ __forceinline__ void copy_split(const Source& source, const KV* from, int split, int blocks, uint4* to) {
    constexpr int PIECES = HEAD_PIECES<HD, KV>, PASS = THREADS / PIECES;
    static_assert(PASS == 8 || PASS % BLOCK_TOKENS == 0, "the same swizzle in every pass, and rows of a pass as `way` wants them");
    const int thread = int(threadIdx.x), row = thread / PIECES, piece = thread % PIECES, left = source.limit - split * SPLIT_KEYS - row;
    from += source.origin(row) + piece * (16 / int(sizeof(KV))), to += piece_at<PIECES>(row, piece);
#pragma unroll
    for (int more = 0; more < SPLIT_KEYS; more += PASS) copy_async_16(to + more * PIECES, from + source.way(blocks, split, row, more), more < left ? 16 : 0);
}

/// The scales of a split's keys and of its values.
struct SplitScales {
    float keys[SPLIT_KEYS], values[SPLIT_KEYS];
};

/// Begins the copy of a split's scales to shared memory, those of keys by warp 0 and those of values by warp 1.
template <int HD>
__device__ __forceinline__ void copy_scales(const PagedKeys<HD, e4m3>& source, int split, int blocks, SplitScales& to) {
    if (warp_id() > 1) return;
    // A lane copies those of 4 tokens.
    const int row = lane_id() * 4, block = __shfl_sync(ALL_LANES, blocks, row / BLOCK_TOKENS), left = source.limit - split * SPLIT_KEYS - row;
    const e4m3* from = (warp_id() ? source.values : source.keys) + (size_t(block) * source.kv_heads + source.head) * head_block<e4m3>(HD);
    float* at = (warp_id() ? to.values : to.keys) + row;
    copy_async_16(at, from + BLOCK_TOKENS * HD + row % BLOCK_TOKENS * SCALE_BYTES, unsigned(max(0, min(left, 4)) * SCALE_BYTES));
}

/// Multiplies numbers of 16 queries and TILES times 8 keys by their keys' scales.
template <int TILES>
__device__ __forceinline__ void scale_keys(float (&numbers)[TILES][4], const float* scales) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const float2 two = *reinterpret_cast<const float2*>(scales + tile * 8 + lane_id() % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; i++) numbers[tile][i] = __fmul_rn(numbers[tile][i], i % 2 ? two.y : two.x);
    }
}

/// Begins the copy of a warp's 16 queries to shared memory; `query(i)` is where number i lies, null for zeros.
template <int HD, class Query>
__device__ __forceinline__ void copy_queries(const Query& query, uint4* to) {
    constexpr int PIECES = HD / PIECE;
    for (int i = lane_id(); i < QUERIES * PIECES; i += WARP_LANES) {
        const bf16* from = query(i / PIECES);
        copy_async_16(to + piece_at<PIECES>(i / PIECES, i % PIECES), from + i % PIECES * PIECE, from ? 16 : 0);
    }
}

/// The scores of 16 queries for TILES times 8 keys, before the keys' scales.
template <int HD, class KV, int TILES>
__device__ __forceinline__ void score(const uint4* queries, const uint4* keys, float (&scores)[TILES][4]) {
    constexpr int PIECES = HD / PIECE;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[tile][i] = 0;
    // A loop, since the compiler would otherwise load all fragments first and run out of registers.
#pragma unroll 1
    for (int piece = 0; piece < PIECES; piece += 2) {
        u32 q[4];
        ldmatrix_x4(q, queries + piece_at<PIECES>(lane_id() % 16, piece + lane_id() / 16));
        if constexpr (sizeof(KV) == 1) {
            const uint4* from = keys + piece_at<PIECES / 2>(lane_id(), piece / 2);
#pragma unroll
            for (int tile = 0; tile < TILES; tile += 4) {
                u32 k[4];
                ldmatrix_x4(k, from + tile * 8 * (PIECES / 2));
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const u32 pairs[2] = {widen_bytes<0, 2>(k[i]), widen_bytes<1, 3>(k[i])};
                    mma_m16n8k16(scores[tile + i], q, pairs);
                }
            }
        } else {
            const uint4* from = keys + piece_at<PIECES>(lane_id() / 16 * 8 + lane_id() % 8, piece + lane_id() / 8 % 2);
#pragma unroll
            for (int tile = 0; tile < TILES; tile += 2) {
                u32 k[4];
                ldmatrix_x4(k, from + tile * 8 * PIECES);
                const u32 first[2] = {k[0], k[1]}, second[2] = {k[2], k[3]};
                mma_m16n8k16(scores[tile], q, first);
                mma_m16n8k16(scores[tile + 1], q, second);
            }
        }
    }
}

/// Takes away the scores of the keys from `visible` on, counted like `first`; one bound for each of a lane's two rows.
template <int TILES>
__device__ __forceinline__ void hide(float (&scores)[TILES][4], int first, const int (&visible)[2]) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (first + tile * 8 + sum_column(lane_id(), i) >= visible[i / 2]) scores[tile][i] = minus_infinity();
}

/// The largest score of each of a lane's two rows.
template <int TILES>
__device__ __forceinline__ void largest(const float (&scores)[TILES][4], float (&most)[2]) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
        most[row] = minus_infinity();
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) most[row] = fmaxf(most[row], fmaxf(scores[tile][row * 2], scores[tile][row * 2 + 1]));
        for (int with = 1; with < 4; with *= 2) most[row] = fmaxf(most[row], __shfl_xor_sync(ALL_LANES, most[row], with));
    }
}

/// Scores become weights; `most` is the largest of the whole split and `factor` is scale log2 e.
template <int TILES>
__device__ __forceinline__ void weigh(float (&scores)[TILES][4], const float (&most)[2], float factor) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
        float less = most[row] == minus_infinity() ? 0 : -__fmul_rn(most[row], factor);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = row * 2; i < row * 2 + 2; i++) scores[tile][i] = exp2_approx(__fmaf_rn(scores[tile][i], factor, less));
    }
}

/// A lane's part of the sum of a quarter's weights: its columns in order.
template <int TILES>
__device__ __forceinline__ float add_quarter(const float (&weights)[TILES][4], int first_tile, int row) {
    float sum = 0;
#pragma unroll
    for (int tile = first_tile; tile < first_tile + QUARTER_TILES; tile++)
        sum = __fadd_rn(__fadd_rn(sum, weights[tile][row * 2]), weights[tile][row * 2 + 1]);
    return sum;
}

/// The sum over the four lanes of a row, from each lane's sum over the quarters in order.
__device__ __forceinline__ float add_lanes(float sum) {
    sum = __fadd_rn(sum, __shfl_xor_sync(ALL_LANES, sum, 1));
    return __fadd_rn(sum, __shfl_xor_sync(ALL_LANES, sum, 2));
}

/// The weights of 16 keys from tile `first` as an A operand.
template <int TILES>
__device__ __forceinline__ void pack_weights(const float (&weights)[TILES][4], int first, u32 (&a)[4]) {
    a[0] = pack(weights[first][0], weights[first][1]), a[1] = pack(weights[first][2], weights[first][3]);
    a[2] = pack(weights[first + 1][0], weights[first + 1][1]), a[3] = pack(weights[first + 1][2], weights[first + 1][3]);
}

/// Values of 32 tokens from `values` as B operands, two for each of the tiles of 8 columns from `first`; of e4m3, one or both of
/// the two that lie side by side.
template <int HD, class KV, int TILES>
__device__ __forceinline__ void load_values(const uint4* values, int first, u32 (&v)[TILES][4]) {
    constexpr int PIECES = HEAD_PIECES<HD, KV>;
    if constexpr (sizeof(KV) == 1) {
        u32 codes[4];
        ldmatrix_x4_trans(codes, values + piece_at<PIECES>(lane_id(), first / 2));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (TILES == 1)
                v[0][i] = first % 2 ? widen_bytes<1, 3>(codes[i]) : widen_bytes<0, 2>(codes[i]);
            else
                v[0][i] = widen_bytes<0, 2>(codes[i]), v[1][i] = widen_bytes<1, 3>(codes[i]);
        }
    } else {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) ldmatrix_x4_trans(v[tile], values + piece_at<PIECES>(lane_id(), first + tile));
    }
}

/// sums[16 queries, TILES times 8 columns from tile `first` of the head] = weights times the split's first `keys` values;
/// the other weights are 0. The early end also keeps the compiler from loading all fragments first.
template <int HD, class KV, int TILES>
__device__ __forceinline__ void weighted_sum(const u32 (&weights)[SPLIT_STEPS][4], const uint4* values, int first, int keys, float (&sums)[TILES][4]) {
    // What is loaded at a time: of e4m3, columns 8 apart lie side by side.
    constexpr int AT_ONCE = sizeof(KV) == 1 && TILES > 1 ? 2 : 1;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[tile][i] = 0;
#pragma unroll
    for (int step = 0; step < SPLIT_STEPS; step += 2) {
        if (step * MMA_K >= keys) break;
#pragma unroll
        for (int tile = 0; tile < TILES; tile += AT_ONCE) {
            u32 v[AT_ONCE][4];
            load_values<HD, KV>(values + step * MMA_K * HEAD_PIECES<HD, KV>, first + tile, v);
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const u32 low[2] = {v[i][0], v[i][1]}, high[2] = {v[i][2], v[i][3]};
                mma_m16n8k16(sums[tile + i], weights[step], low);
                mma_m16n8k16(sums[tile + i], weights[step + 1], high);
            }
        }
    }
}

/// What the splits so far make of a row: the largest score, times scale log2 e, and what weights relative to it sum to.
struct Merged {
    float most = minus_infinity(), sum = 0;
};

/// What the sums so far and those of one more split are multiplied by.
struct MergeFactors {
    float before, added;
};

/// `most` is that of the splits before, `with` that including one more, whose own is `own`. A split that the row sees
/// nothing of changes nothing.
__device__ __forceinline__ MergeFactors merge_factors(float most, float with, float own) {
    return {most == with ? 1.0f : exp2_approx(__fsub_rn(most, with)), own == minus_infinity() ? 0.0f : exp2_approx(__fsub_rn(own, with))};
}

__device__ __forceinline__ float merge(float sum, float added, const MergeFactors& factors) {
    return __fmaf_rn(sum, factors.before, __fmul_rn(added, factors.added));
}

/// What a row's sums are multiplied by in the end.
__device__ __forceinline__ float share(float sum) { return __fdiv_rn(1.0f, sum); }
