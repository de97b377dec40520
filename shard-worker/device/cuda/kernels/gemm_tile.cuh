// gemm_tile_{w,f}, gemm_tile8_{w,f} and gemm_wide_{w,f}: out[m, n] = x[m, k] w[n, k]^T for any m, with the order of sums of
// gemm.cuh; gemm_tile8 has weights of e4m3.
//
//                 features   rows of a tile   shared, dynamic                    for
//   gemm_tile     128        128              98304 bytes (GEMM_TILE_SHARED)     every device
//   gemm_tile8    128        128              90112 bytes (GEMM_TILE8_SHARED)    every device
//   gemm_wide     128        256              229376 bytes (GEMM_WIDE_SHARED)    sm_90, m from about 512 on
//
//   grid    ceil(n / 128) * ceil(m / rows of a tile), in x; blocks that run together share weights and rows in L2
//   block   256: 2 by 4 warps of 64 features by a quarter of the rows
//   limit   mma.sync, about 620 TFLOP/s of an H100's 989. gemm_tile brings 32 KiB from L2 and 64 KiB through shared memory
//           for 2.1 MFLOP, both near what an H100 moves in that time, so that some 400 TFLOP/s are to be had; gemm_wide
//           halves what a product costs in L2 and takes a quarter off its shared memory (some 480). Tile quantisation:
//           a row tile costs the same however few of its rows are there.
//
// Stages of k come through cp.async into a ring in shared memory, one barrier a stage. At the end of a segment of k its
// sum is added to the total: in registers, or for gemm_wide, whose sums take half of the register file, in shared memory.
// Weights of e4m3 are widened to bf16, once a block, a stage before they are multiplied.
// After: CUTLASS's multistage mainloop; tiles by groups of rows as in Triton's tutorial on matrix products.

constexpr int TILE_FEATURES = 128;
/// Row tiles that blocks go through before the next features.
constexpr int TILE_GROUP = 8;

template <int ROWS_, int STAGE_K_, int STAGES_, bool TOTALS_IN_SHARED_>
struct TileShape {
    static constexpr int ROWS = ROWS_, STAGE_K = STAGE_K_, STAGES = STAGES_;
    static constexpr bool TOTALS_IN_SHARED = TOTALS_IN_SHARED_;
    /// Pieces of a row of a stage, of a stage's rows, and of its features.
    static constexpr int PIECES = STAGE_K / PIECE, ROW_PIECES = ROWS * PIECES, FEATURE_PIECES = TILE_FEATURES * PIECES;
    /// Sums of a warp, in tiles of 16 features and 8 rows.
    static constexpr int FEATURE_TILES = TILE_FEATURES / 2 / 16, ROW_TILES = ROWS / 4 / 8;
    static constexpr int TOTAL_BYTES = TOTALS_IN_SHARED ? TILE_FEATURES * ROWS * int(sizeof(float)) : 0;
};
using Tile = TileShape<128, 64, 3, false>;
using Tile8 = TileShape<128, 32, 6, false>;
using WideTile = TileShape<256, 32, 4, true>;

/// First feature and first row of a block's tile.
struct TilePlace {
    int feature, row;
};

template <class Shape>
__device__ __forceinline__ TilePlace tile_place(int m, int n) {
    int row_tiles = ceil_div(m, Shape::ROWS), a_group = TILE_GROUP * ceil_div(n, TILE_FEATURES);
    int group = int(blockIdx.x) / a_group, within = int(blockIdx.x) % a_group;
    int rows = min(TILE_GROUP, row_tiles - group * TILE_GROUP);
    return {within / rows * TILE_FEATURES, (group * TILE_GROUP + within % rows) * Shape::ROWS};
}

/// Copies stages of ROWS rows of bf16, a 16-byte piece of every PASS-th of them to a thread.
template <int ROWS, int PIECES>
struct RowCopy {
    static constexpr int PASS = GEMM_THREADS / PIECES, PASSES = ROWS / PASS;

    const bf16* from;
    size_t step;
    int left;
    u32 there;
    uint4* to;

    /// Rows `first`.. `end` of a matrix of k columns, from column `from_k`.
    __device__ RowCopy(const bf16* rows, int first, int end, int from_k, int k, uint4* to) : step(size_t(PASS) * k), there(0) {
        const int row = int(threadIdx.x) / PIECES, piece = int(threadIdx.x) % PIECES;
        from = rows + size_t(first + row) * k + from_k + piece * PIECE;
        left = k - from_k - piece * PIECE;
        for (int pass = 0; pass < PASSES; pass++) there |= u32(first + row + pass * PASS < end) << pass;
        this->to = to + piece_at<PIECES>(row, piece);
    }

    /// Begins the copy of the next numbers of k; beyond the end of k and of the rows come zeros.
    __device__ __forceinline__ void next(int slot) {
        const u32 now = left > 0 ? there : 0;
        const bf16* row = from;
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            copy_async_16(to + slot * ROWS * PIECES + pass * PASS * PIECES, row, now >> pass & 1 ? 16 : 0);
            row += step;
        }
        from += PIECES * PIECE, left -= PIECES * PIECE;
    }
};

/// Where a tile's weights come from: bf16 as they lie.
template <class Shape, class W>
struct TileWeights {
    static constexpr int SHARED = Shape::STAGES * Shape::FEATURE_PIECES * 16;
    /// Stages that `prepare` is ahead of the products.
    static constexpr int AHEAD = 0;

    RowCopy<TILE_FEATURES, Shape::PIECES> copy;
    const uint4* stages;

    __device__ TileWeights(const Product<W>& of, int feature, int from_k, uint4* shared) : copy(of.w, feature, of.n, from_k, of.k, shared), stages(shared) {}

    __device__ __forceinline__ void next(int slot) { copy.next(slot); }
    /// Makes a stage, whose copies by this thread are there, ready for all once they have met.
    __device__ __forceinline__ void prepare(int, int) {}
    /// A stage as [features][PIECES], where `prepare` was called for it.
    __device__ __forceinline__ const uint4* at(int, int slot) const { return stages + slot * Shape::FEATURE_PIECES; }
};

/// e4m3: a thread copies 16 numbers of a stage to a place of its own and widens them into one of two stages of bf16.
template <class Shape>
struct TileWeights<Shape, e4m3> {
    static constexpr int SHARED = Shape::STAGES * GEMM_THREADS * 16 + 2 * Shape::FEATURE_PIECES * 16;
    static constexpr int AHEAD = 1;
    static_assert(TILE_FEATURES * Shape::STAGE_K == GEMM_THREADS * 16, "16 numbers a thread");

    const e4m3* from;
    int left;
    uint4 *own, *wide;

    __device__ TileWeights(const Product<e4m3>& of, int feature, int from_k, uint4* shared) : own(shared + threadIdx.x), wide(shared + Shape::STAGES * GEMM_THREADS) {
        const int row = feature + int(threadIdx.x) / 2, number = from_k + int(threadIdx.x) % 2 * 16;
        from = of.w + size_t(row) * of.k + number;
        left = row < of.n ? of.k - number : 0;
    }

    __device__ __forceinline__ void next(int slot) {
        copy_async_16(own + slot * GEMM_THREADS, from, left > 0 ? 16 : 0);
        from += Shape::STAGE_K, left -= Shape::STAGE_K;
    }
    __device__ __forceinline__ void prepare(int stage, int slot) {
        const uint4 numbers = own[slot * GEMM_THREADS];
        uint4* to = wide + stage % 2 * Shape::FEATURE_PIECES;
        const int row = int(threadIdx.x) / 2, piece = int(threadIdx.x) % 2 * 2;
        to[piece_at<Shape::PIECES>(row, piece)] = make_uint4(widen_pair(numbers.x), widen_pair(numbers.x >> 16), widen_pair(numbers.y), widen_pair(numbers.y >> 16));
        to[piece_at<Shape::PIECES>(row, piece + 1)] = make_uint4(widen_pair(numbers.z), widen_pair(numbers.z >> 16), widen_pair(numbers.w), widen_pair(numbers.w >> 16));
    }
    __device__ __forceinline__ const uint4* at(int stage, int) const { return wide + stage % 2 * Shape::FEATURE_PIECES; }
};

template <class Shape, class W>
constexpr int TILE_SHARED = Shape::STAGES * Shape::ROW_PIECES * 16 + TileWeights<Shape, W>::SHARED + Shape::TOTAL_BYTES;
constexpr int GEMM_TILE_SHARED = TILE_SHARED<Tile, bf16>, GEMM_TILE8_SHARED = TILE_SHARED<Tile8, e4m3>, GEMM_WIDE_SHARED = TILE_SHARED<WideTile, bf16>;
static_assert(GEMM_TILE_SHARED == 98304 && GEMM_TILE8_SHARED == 90112 && GEMM_WIDE_SHARED == 229376, "the comment above");

/// A warp's sums += one stage.
template <class Shape>
__device__ __forceinline__ void multiply_stage(const uint4* weights, const uint4* rows, float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4]) {
    // Lanes bring addresses: of weights for 16 features by 2 pieces, of activations for 8 rows by 4 pieces.
    int feature = warp_id() / 4 * (TILE_FEATURES / 2) + lane_id() % 16;
    int row = warp_id() % 4 * (Shape::ROWS / 4) + lane_id() % 8;
#pragma unroll
    for (int pieces = 0; pieces < Shape::PIECES; pieces += 4) {
        u32 x[Shape::ROW_TILES][4];
        const uint4* from = rows + piece_at<Shape::PIECES>(row, pieces + lane_id() / 8);
#pragma unroll
        for (int r = 0; r < Shape::ROW_TILES; r++) ldmatrix_x4(x[r], from + r * 8 * Shape::PIECES);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            from = weights + piece_at<Shape::PIECES>(feature, pieces + half * 2 + lane_id() / 16);
#pragma unroll
            for (int f = 0; f < Shape::FEATURE_TILES; f++) {
                u32 w[4];
                ldmatrix_x4(w, from + f * 16 * Shape::PIECES);
#pragma unroll
                for (int r = 0; r < Shape::ROW_TILES; r++) {
                    const u32 pair[2] = {x[r][half * 2], x[r][half * 2 + 1]};
                    mma_m16n8k16(sums[f][r], w, pair);
                }
            }
        }
    }
}

/// The totals of a thread's sums over the segments so far.
template <class Shape>
struct Totals {
    float here[Shape::TOTALS_IN_SHARED ? 1 : Shape::FEATURE_TILES][Shape::ROW_TILES][4];
    float4* shared;

    __device__ explicit Totals(uint4* after_stages) : here{}, shared(reinterpret_cast<float4*>(after_stages) + threadIdx.x) {}

    __device__ __forceinline__ void begin() {
        if (Shape::TOTALS_IN_SHARED)
            for (int i = 0; i < Shape::FEATURE_TILES * Shape::ROW_TILES; i++) shared[i * GEMM_THREADS] = make_float4(0, 0, 0, 0);
    }

    /// total + sum of tile (f, r), as `sum`.
    __device__ __forceinline__ void add_to(float (&sum)[4], int f, int r) const {
        float4 total = Shape::TOTALS_IN_SHARED ? shared[(f * Shape::ROW_TILES + r) * GEMM_THREADS]
                                               : make_float4(here[f][r][0], here[f][r][1], here[f][r][2], here[f][r][3]);
        sum[0] = __fadd_rn(total.x, sum[0]), sum[1] = __fadd_rn(total.y, sum[1]);
        sum[2] = __fadd_rn(total.z, sum[2]), sum[3] = __fadd_rn(total.w, sum[3]);
    }

    /// Ends a segment: adds its sums and sets them to 0.
    __device__ __forceinline__ void take(int, float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4]) {
#pragma unroll
        for (int f = 0; f < Shape::FEATURE_TILES; f++)
#pragma unroll
            for (int r = 0; r < Shape::ROW_TILES; r++) {
                float(&sum)[4] = sums[f][r];
                add_to(sum, f, r);
                if (Shape::TOTALS_IN_SHARED)
                    shared[(f * Shape::ROW_TILES + r) * GEMM_THREADS] = make_float4(sum[0], sum[1], sum[2], sum[3]);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (!Shape::TOTALS_IN_SHARED) here[f][r][i] = sum[i];
                    sum[i] = 0;
                }
            }
    }
};

/// Calls `body(f, r, i, number)` for number i of tile (f, r) of a thread's sums, with where it lies in out[m, n].
template <class Shape, class W, class Body>
__device__ __forceinline__ void for_sums(const Product<W>& of, const TilePlace& place, Body body) {
    const int feature = place.feature + warp_id() / 4 * (TILE_FEATURES / 2), row = place.row + warp_id() % 4 * (Shape::ROWS / 4);
#pragma unroll
    for (int f = 0; f < Shape::FEATURE_TILES; f++)
#pragma unroll
        for (int r = 0; r < Shape::ROW_TILES; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int to_feature = feature + f * 16 + sum_row(lane_id(), i), to_row = row + r * 8 + sum_column(lane_id(), i);
                if (to_feature < of.n && to_row < of.m) body(f, r, i, size_t(to_row) * of.n + to_feature);
            }
}

/// A block's products over segments `segment`.. `last` of k. `ended` takes the sums of each but those behind the last stage,
/// from the segment that is returned on.
template <class Shape, class W, class Ended>
__device__ __forceinline__ int multiply_segments(const Product<W>& of, const TilePlace& place, int segment, int last, uint4* shared, Ended& ended,
                                                 float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4]) {
    using Weights = TileWeights<Shape, W>;
    constexpr int STAGES_IN_CHUNK = GEMM_CHUNK / Shape::STAGE_K, STAGES = Shape::STAGES;
    const int first = segment_begin(segment, of.k) * STAGES_IN_CHUNK, stages = segment_begin(last, of.k) * STAGES_IN_CHUNK - first;
    RowCopy<Shape::ROWS, Shape::PIECES> rows(of.x, place.row, of.m, first * Shape::STAGE_K, of.k, shared);
    Weights weights(of, place.feature, first * Shape::STAGE_K, shared + STAGES * Shape::ROW_PIECES);
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < stages) rows.next(s), weights.next(s);
        copy_async_commit();
    }
    ended.begin();
    if (Weights::AHEAD) {
        copy_async_wait<STAGES - 2>();
        weights.prepare(0, 0);
    }
    // Slots of the stage that is multiplied, of the one that is prepared and of the one that is copied.
    int slot = 0, ahead = Weights::AHEAD, copied = STAGES - 1;
    for (int s = 0; s < stages; s++) {
        while (first + s == segment_begin(segment + 1, of.k) * STAGES_IN_CHUNK) ended.take(segment++, sums);
        copy_async_wait<STAGES - 2 - Weights::AHEAD>();
        __syncthreads();
        // All warps had done with what lies in the last slot before the barrier.
        if (s + STAGES - 1 < stages) rows.next(copied), weights.next(copied);
        copy_async_commit();
        if (s + Weights::AHEAD < stages) weights.prepare(s + Weights::AHEAD, ahead);
        multiply_stage<Shape>(weights.at(s, slot), shared + slot * Shape::ROW_PIECES, sums);
        copied = slot;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        ahead = ahead + 1 == STAGES ? 0 : ahead + 1;
    }
    copy_async_wait<0>();
    return segment;
}

template <class Shape, class W, class Out>
__device__ __forceinline__ void gemm_tile(const Product<W>& of, Out* out) {
    wait_for_kernels_ahead();
    DYNAMIC_SHARED(uint4, shared);
    const TilePlace place = tile_place<Shape>(of.m, of.n);
    Totals<Shape> totals(shared + Shape::STAGES * Shape::ROW_PIECES + TileWeights<Shape, W>::SHARED / 16);
    float sums[Shape::FEATURE_TILES][Shape::ROW_TILES][4] = {};
    multiply_segments<Shape>(of, place, 0, GEMM_SEGMENTS, shared, totals, sums);
#pragma unroll
    for (int f = 0; f < Shape::FEATURE_TILES; f++)
#pragma unroll
        for (int r = 0; r < Shape::ROW_TILES; r++) totals.add_to(sums[f][r], f, r);
    const int feature = place.feature + warp_id() / 4 * (TILE_FEATURES / 2);
    for_sums<Shape>(of, place, [&](int f, int r, int i, size_t at) {
        out[at] = from_float<Out>(of.finish(sums[f][r][i], feature + f * 16 + sum_row(lane_id(), i)));
    });
}

#define GEMM_TILE(name, Shape, Out)                                                                                              \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)                                                              \
        name(const bf16* x, const bf16* w, Out* __restrict__ out, int m, int n, int k) {                                        \
        gemm_tile<Shape>(Product<bf16>{x, w, nullptr, m, n, k}, out);                                                          \
    }
#define GEMM_TILE8(name, Out)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)                                                              \
        name(const bf16* x, const e4m3* w, const float* scales, Out* __restrict__ out, int m, int n, int k) {                                        \
        gemm_tile<Tile8>(Product<e4m3>{x, w, scales, m, n, k}, out);                                                           \
    }
GEMM_TILE(gemm_tile_w, Tile, bf16)
GEMM_TILE(gemm_tile_f, Tile, float)
GEMM_TILE(gemm_wide_w, WideTile, bf16)
GEMM_TILE(gemm_wide_f, WideTile, float)
GEMM_TILE8(gemm_tile8_w, bf16)
GEMM_TILE8(gemm_tile8_f, float)
#undef GEMM_TILE
#undef GEMM_TILE8
