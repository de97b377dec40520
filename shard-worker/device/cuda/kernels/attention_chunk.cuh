// attend_chunk_{32,64,128}: rows of a sequence that see all keys before them, as in prefill; attend_chunk8_{32,64,128}: over keys
// and values of e4m3; and attend_image_{32,64,128}: rows of an image that see all of its rows. The same bits for a row as
// attend_split, or attend_split8, and attend_combine.
//
// attend_chunk: tiles of up to 64 rows; the query heads of a key head are computed together, 128 queries a block.
//   grid    (kv_heads * ceil(largest count * group / 128), tiles), group = heads / kv_heads, 1 to 16; the tiles that see
//           most keys should come first, since blocks begin in order and the longest would otherwise end alone
//   block   256
//   shared  768 HD bytes, dynamic (attend_chunk_shared); attend_chunk8: 768 HD + 1024 bytes (attend_chunk8_shared)
// attend_image: kv_heads == heads, keys and values lie in qkv itself.
//   grid    (heads, tiles)
//   block   128
//   shared  640 HD bytes, dynamic (attend_image_shared)
// Both:
//   limit   shared memory: each warp reads the keys and values for its 16 queries, a byte for 16 flops, which with the
//           copies comes to 420 TFLOP/s on an H100 (mma.sync alone: 620); beside the exponentials some 300 can be had
//
// A warp has 16 queries and goes through the splits alone; the block only shares the copies: the values of a split come
// while its scores are computed and weighed, the next split's keys while its values are summed. Of e4m3 the copies take half
// the bytes, and the block widens what has come, once for all warps: keys, and when they have been met values, share a place in bf16.

constexpr int CHUNK_WARPS = 8, IMAGE_WARPS = 4;
constexpr int attend_chunk_shared(int head_dim) { return (2 * SPLIT_KEYS + CHUNK_WARPS * QUERIES) * head_dim * int(sizeof(bf16)); }
constexpr int attend_chunk8_shared(int head_dim) { return attend_chunk_shared(head_dim) + int(sizeof(SplitScales)); }
static_assert(attend_chunk8_shared(128) == 768 * 128 + 1024, "the comment above");
constexpr int attend_image_shared(int head_dim) { return (2 * SPLIT_KEYS + IMAGE_WARPS * QUERIES) * head_dim * int(sizeof(bf16)); }

/// Where an image's keys and values lie: in rows of qkv. Its numbers there are fewer than 2^31.
template <int HD>
struct SpanKeys {
    const bf16 *keys, *values;
    int stride, limit;

    __device__ __forceinline__ int look_up(int) const { return 0; }
    __device__ __forceinline__ int origin(int row) const { return row * stride; }
    __device__ __forceinline__ int way(int, int split, int, int more) const { return (split * SPLIT_KEYS + more) * stride; }
};

/// The queries of a warp.
struct WarpQueries {
    /// Where those of a lane, lane / 4 and lane / 4 + 8, lie in out, in heads; -1 where there is none.
    int to[2];
    /// The keys that each sees.
    int visible[2];

    __device__ __forceinline__ void set(int half, bool there, int out, int keys) { to[half] = there ? out : -1, visible[half] = there ? keys : 0; }
};

/// A split's weights for 16 queries as A operands, what they are relative to, and their sums.
struct SplitWeights {
    u32 packed[SPLIT_STEPS][4];
    float most[2], sum[2];
};

/// `visible` is counted in the split; `whole` says that all queries of the warp see all of it; `scales` are null where there are none.
template <int HD, bool SCALED>
__device__ __forceinline__ void weigh_split(const uint4* queries, const uint4* keys, const SplitScales* scales, const int (&visible)[2], bool whole,
                                            float factor, SplitWeights& weights) {
    float scores[SPLIT_TILES][4];
    score<HD, bf16>(queries, keys, scores);
    if constexpr (SCALED) scale_keys(scores, scales->keys);
    if (!whole) hide(scores, 0, visible);
    largest(scores, weights.most);
    weigh(scores, weights.most, factor);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = 0;
#pragma unroll
        for (int quarter = 0; quarter < 4; quarter++) sum = __fadd_rn(sum, add_quarter(scores, quarter * QUARTER_TILES, half));
        weights.sum[half] = add_lanes(sum);
    }
    if constexpr (SCALED) scale_keys(scores, scales->values);
#pragma unroll
    for (int step = 0; step < SPLIT_STEPS; step++) pack_weights(scores, step * 2, weights.packed[step]);
}

/// What 16 queries have after some splits.
template <int HD>
struct Attended {
    /// Columns, in tiles of 8, that are summed at a time: their sums share the registers with those of all splits.
    static constexpr int AT_A_TIME = HD > 64 ? 8 : 4;
    float values[HD / 8][4] = {};
    Merged merged[2];

    __device__ __forceinline__ void add(const SplitWeights& weights, const uint4* split_values, int keys, float factor) {
        MergeFactors factors[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float own = __fmul_rn(weights.most[half], factor), with = fmaxf(merged[half].most, own);
            factors[half] = merge_factors(merged[half].most, with, own);
            merged[half] = {with, merge(merged[half].sum, weights.sum[half], factors[half])};
        }
#pragma unroll
        for (int first = 0; first < HD / 8; first += AT_A_TIME) {
            float sums[AT_A_TIME][4];
            weighted_sum<HD, bf16>(weights.packed, split_values, first, keys, sums);
#pragma unroll
            for (int tile = 0; tile < AT_A_TIME; tile++)
#pragma unroll
                for (int i = 0; i < 4; i++) values[first + tile][i] = merge(values[first + tile][i], sums[tile][i], factors[i / 2]);
        }
    }

    __device__ __forceinline__ void write(bf16* out, const int (&to)[2]) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (to[half] < 0) continue;
            const float factor = share(merged[half].sum);
            u32* pairs = reinterpret_cast<u32*>(out + size_t(to[half]) * HD) + lane_id() % 4;
#pragma unroll
            for (int tile = 0; tile < HD / 8; tile++)
                pairs[tile * 4] = pack(__fmul_rn(values[tile][half * 2], factor), __fmul_rn(values[tile][half * 2 + 1], factor));
        }
    }
};

/// A split's numbers, which have come, as bf16: widened to `wide`, which all warps have done with, where they are e4m3.
template <int HD, int THREADS, class KV>
__device__ __forceinline__ const uint4* widened(const uint4* numbers, uint4* wide) {
    if constexpr (sizeof(KV) == 2) return numbers;
    constexpr int PIECES = HEAD_PIECES<HD, e4m3>;
    for (int i = int(threadIdx.x); i < SPLIT_PIECES<HD, e4m3>; i += THREADS) {
        const int row = i / PIECES, piece = i % PIECES;
        const uint4 codes = numbers[piece_at<PIECES>(row, piece)];
        wide[piece_at<2 * PIECES>(row, 2 * piece)] =
            make_uint4(widen_bytes<0, 2>(codes.x), widen_bytes<0, 2>(codes.y), widen_bytes<0, 2>(codes.z), widen_bytes<0, 2>(codes.w));
        wide[piece_at<2 * PIECES>(row, 2 * piece + 1)] =
            make_uint4(widen_bytes<1, 3>(codes.x), widen_bytes<1, 3>(codes.y), widen_bytes<1, 3>(codes.z), widen_bytes<1, 3>(codes.w));
    }
    __syncthreads();
    return wide;
}

/// The block's queries over all keys below the source's limit; `query(i)` is where number i of the warp's lies.
template <int HD, int WARPS, class KV, class Source, class Query>
__device__ __forceinline__ void attend_all(const Source& source, const WarpQueries& queries, const Query& query, bf16* out, float scale) {
    DYNAMIC_SHARED(uint4, keys);
    constexpr int THREADS = WARPS * WARP_LANES;
    constexpr bool SCALED = sizeof(KV) == 1;
    // Of e4m3, `wide` lies where bf16 would have its values.
    uint4 *values = keys + SPLIT_PIECES<HD, KV>, *wide = keys + SPLIT_PIECES<HD, bf16>, *all_queries = wide + SPLIT_PIECES<HD, bf16>;
    uint4* own = all_queries + warp_id() * QUERY_PIECES<HD>;
    SplitScales* scales = reinterpret_cast<SplitScales*>(all_queries + WARPS * QUERY_PIECES<HD>);
    const int splits = ceil_div(source.limit, SPLIT_KEYS);
    const float factor = __fmul_rn(scale, LOG2_E);
    const int least = int(__reduce_min_sync(ALL_LANES, unsigned(min(queries.visible[0], queries.visible[1]))));
    const int most = int(__reduce_max_sync(ALL_LANES, unsigned(max(queries.visible[0], queries.visible[1]))));
    int blocks = source.look_up(0);
    copy_queries<HD>(query, own);
    copy_split<HD, THREADS>(source, source.keys, 0, blocks, keys);
    if constexpr (SCALED) copy_scales(source, 0, blocks, *scales);
    copy_async_commit();
    Attended<HD> attended;
    for (int split = 0; split < splits; split++) {
        const int next_blocks = source.look_up(split + 1);
        copy_async_wait<0>();
        __syncthreads();
        copy_split<HD, THREADS>(source, source.values, split, blocks, values);
        copy_async_commit();
        const int first = split * SPLIT_KEYS, visible[2] = {queries.visible[0] - first, queries.visible[1] - first};
        const bool sees = most > first;
        SplitWeights weights;
        const uint4* split_keys = widened<HD, THREADS, KV>(keys, wide);
        if (sees) weigh_split<HD, SCALED>(own, split_keys, scales, visible, least >= first + SPLIT_KEYS, factor, weights);
        copy_async_wait<0>();
        __syncthreads();
        if (split + 1 < splits) {
            copy_split<HD, THREADS>(source, source.keys, split + 1, next_blocks, keys);
            if constexpr (SCALED) copy_scales(source, split + 1, next_blocks, *scales);
        }
        copy_async_commit();
        blocks = next_blocks;
        const uint4* split_values = widened<HD, THREADS, KV>(values, wide);
        if (sees) attended.add(weights, split_values, most - first, factor);
    }
    copy_async_wait<0>();
    attended.write(out, queries.to);
}

template <int HD, class KV>
__device__ __forceinline__ void attend_chunk(const bf16* qkv, const KV* keys, const KV* values, const int* tables, const AttendTile* tiles, bf16* out,
                                             int heads, int kv_heads, float scale) {
    wait_for_kernels_ahead();
    const AttendTile tile = tiles[blockIdx.y];
    const int parts = int(gridDim.x) / kv_heads, kv_head = int(blockIdx.x) / parts, group = heads / kv_heads;
    // Queries are counted by row and by head within.
    const int block_first = int(blockIdx.x) % parts * CHUNK_WARPS * QUERIES, first = block_first + warp_id() * QUERIES;
    const int end = min(block_first + CHUNK_WARPS * QUERIES, tile.count * group);
    if (end <= block_first) return;
    WarpQueries queries;
    for (int half = 0; half < 2; half++) {
        const int i = first + half * 8 + lane_id() / 4;
        queries.set(half, i < end, (tile.row + i / group) * heads + kv_head * group + i % group, tile.start + i / group + 1);
    }
    const auto query = [=](int i) -> const bf16* {
        i += first;
        return i < end ? qkv + (size_t(tile.row + i / group) * (heads + 2 * kv_heads) + kv_head * group + i % group) * HD : nullptr;
    };
    const PagedKeys<HD, KV> source{keys, values, tables + tile.table, kv_heads, kv_head, tile.start + (end - 1) / group + 1};
    attend_all<HD, CHUNK_WARPS, KV>(source, queries, query, out, scale);
}

template <int HD>
__device__ __forceinline__ void attend_image(const bf16* qkv, const AttendTile* tiles, bf16* out, int heads, float scale) {
    wait_for_kernels_ahead();
    const AttendTile tile = tiles[blockIdx.y];
    const int head = int(blockIdx.x), span = tile.table, first = warp_id() * QUERIES;
    WarpQueries queries;
    for (int half = 0; half < 2; half++) {
        const int row = first + half * 8 + lane_id() / 4;
        queries.set(half, row < tile.count, (tile.row + row) * heads + head, span);
    }
    const auto query = [=](int i) -> const bf16* {
        return first + i < tile.count ? qkv + (size_t(tile.row + first + i) * 3 * heads + head) * HD : nullptr;
    };
    const bf16* keys = qkv + (size_t(tile.start) * 3 * heads + heads + head) * HD;
    attend_all<HD, IMAGE_WARPS, bf16>(SpanKeys<HD>{keys, keys + size_t(heads) * HD, 3 * heads * HD, span}, queries, query, out, scale);
}

#define ATTEND_CHUNK(name, HD, KV)                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(CHUNK_WARPS * WARP_LANES, 1)                                                                                \
        name##_##HD(const bf16* qkv, const KV* keys, const KV* values, const int* tables,                \
                    const AttendTile* tiles, bf16* __restrict__ out, int heads, int kv_heads, float scale) {                                    \
        attend_chunk<HD>(qkv, keys, values, tables, tiles, out, heads, kv_heads, scale);                                                                     \
    }
#define ATTEND_CHUNKS(HD)                                                                                                                                    \
    ATTEND_CHUNK(attend_chunk, HD, bf16)                                                                                                                     \
    ATTEND_CHUNK(attend_chunk8, HD, e4m3)                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(IMAGE_WARPS * WARP_LANES, HD > 64 ? 2 : 3)                                                                  \
        attend_image_##HD(const bf16* qkv, const AttendTile* tiles, bf16* __restrict__ out, int heads, float scale) {                                        \
        attend_image<HD>(qkv, tiles, out, heads, scale);                                                                                                     \
    }
ATTEND_CHUNKS(32)
ATTEND_CHUNKS(64)
ATTEND_CHUNKS(128)
#undef ATTEND_CHUNKS
#undef ATTEND_CHUNK
