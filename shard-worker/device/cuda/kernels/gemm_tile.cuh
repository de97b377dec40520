// gemm_tile_{w,f} and gemm_wide_{w,f}: out[m, n] = x[m, k] w[n, k]^T for any m, with the order of sums of gemm.cuh.
//
//                 features   rows of a tile   shared, dynamic                    for
//   gemm_tile     128        128              98304 bytes (GEMM_TILE_SHARED)     every device
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
// After: CUTLASS's multistage mainloop; tiles by groups of rows as in Triton's tutorial on matrix products.

constexpr int TILE_FEATURES = 128;
/// Row tiles that blocks go through before the next features.
constexpr int TILE_GROUP = 8;

template <int ROWS_, int STAGE_K_, int STAGES_, bool TOTALS_IN_SHARED_>
struct TileShape {
    static constexpr int ROWS = ROWS_, STAGE_K = STAGE_K_, STAGES = STAGES_;
    static constexpr bool TOTALS_IN_SHARED = TOTALS_IN_SHARED_;
    static constexpr int PIECES = STAGE_K / PIECE;
    static constexpr int STAGE_PIECES = (TILE_FEATURES + ROWS) * PIECES;
    /// Sums of a warp, in tiles of 16 features and 8 rows.
    static constexpr int FEATURE_TILES = TILE_FEATURES / 2 / 16, ROW_TILES = ROWS / 4 / 8;
    static constexpr int SHARED = STAGES * STAGE_PIECES * 16 + (TOTALS_IN_SHARED ? TILE_FEATURES * ROWS * int(sizeof(float)) : 0);
};
using Tile = TileShape<128, 64, 3, false>;
using WideTile = TileShape<256, 32, 4, true>;
constexpr int GEMM_TILE_SHARED = Tile::SHARED, GEMM_WIDE_SHARED = WideTile::SHARED;
static_assert(GEMM_TILE_SHARED == 98304 && GEMM_WIDE_SHARED == 229376, "the comment above");

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

/// Copies the stages of a tile: its features, then its rows, a 16-byte piece of every PASS-th of them to a thread.
template <class Shape>
struct StageCopy {
    static constexpr int PASS = GEMM_THREADS / Shape::PIECES;
    static constexpr int WEIGHT_PASSES = TILE_FEATURES / PASS, PASSES = (TILE_FEATURES + Shape::ROWS) / PASS;

    const bf16 *w, *x;
    size_t step;
    int left;
    u32 there;
    uint4* to;

    __device__ StageCopy(const Product& of, const TilePlace& place, uint4* stages) : step(size_t(PASS) * of.k), there(0) {
        int row = int(threadIdx.x) / Shape::PIECES, piece = int(threadIdx.x) % Shape::PIECES;
        w = of.w + size_t(place.feature + row) * of.k + piece * PIECE;
        x = of.x + size_t(place.row + row) * of.k + piece * PIECE;
        left = of.k - piece * PIECE;
        for (int pass = 0; pass < PASSES; pass++) {
            bool weights = pass < WEIGHT_PASSES;
            int at = row + (weights ? place.feature + pass * PASS : place.row + (pass - WEIGHT_PASSES) * PASS);
            there |= u32(at < (weights ? of.n : of.m)) << pass;
        }
        to = stages + piece_at<Shape::PIECES>(row, piece);
    }

    /// Begins the copy of the next STAGE_K numbers of k; beyond the end of k and of the rows come zeros.
    __device__ __forceinline__ void next(int slot) {
        u32 now = left > 0 ? there : 0;
        const bf16 *from_w = w, *from_x = x;
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            const bf16*& from = pass < WEIGHT_PASSES ? from_w : from_x;
            copy_async_16(to + slot * Shape::STAGE_PIECES + pass * PASS * Shape::PIECES, from, now >> pass & 1 ? 16 : 0);
            from += step;
        }
        w += Shape::STAGE_K, x += Shape::STAGE_K, left -= Shape::STAGE_K;
    }
};

/// A warp's sums += one stage.
template <class Shape>
__device__ __forceinline__ void multiply_stage(const uint4* stage, float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4]) {
    // Lanes bring addresses: of weights for 16 features by 2 pieces, of activations for 8 rows by 4 pieces.
    int feature = warp_id() / 4 * (TILE_FEATURES / 2) + lane_id() % 16;
    int row = TILE_FEATURES + warp_id() % 4 * (Shape::ROWS / 4) + lane_id() % 8;
#pragma unroll
    for (int pieces = 0; pieces < Shape::PIECES; pieces += 4) {
        u32 x[Shape::ROW_TILES][4];
        const uint4* from = stage + piece_at<Shape::PIECES>(row, pieces + lane_id() / 8);
#pragma unroll
        for (int r = 0; r < Shape::ROW_TILES; r++) ldmatrix_x4(x[r], from + r * 8 * Shape::PIECES);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            from = stage + piece_at<Shape::PIECES>(feature, pieces + half * 2 + lane_id() / 16);
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

    __device__ explicit Totals(uint4* after_stages) : here{}, shared(reinterpret_cast<float4*>(after_stages) + threadIdx.x) {
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
    __device__ __forceinline__ void take(float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4]) {
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

template <class Shape, class Out>
__device__ __forceinline__ void write_tile(const Product& of, const TilePlace& place, Out* out, float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4],
                                           const Totals<Shape>& totals) {
    int feature = place.feature + warp_id() / 4 * (TILE_FEATURES / 2), row = place.row + warp_id() % 4 * (Shape::ROWS / 4);
#pragma unroll
    for (int f = 0; f < Shape::FEATURE_TILES; f++)
#pragma unroll
        for (int r = 0; r < Shape::ROW_TILES; r++) {
            totals.add_to(sums[f][r], f, r);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int to_feature = feature + f * 16 + sum_row(lane_id(), i), to_row = row + r * 8 + sum_column(lane_id(), i);
                if (to_feature < of.n && to_row < of.m) out[size_t(to_row) * of.n + to_feature] = from_float<Out>(sums[f][r][i]);
            }
        }
}

template <class Shape, class Out>
__device__ __forceinline__ void gemm_tile(const Product& of, Out* out) {
    DYNAMIC_SHARED(uint4, shared);
    constexpr int STAGES_IN_CHUNK = GEMM_CHUNK / Shape::STAGE_K;
    const TilePlace place = tile_place<Shape>(of.m, of.n);
    const int stages = ceil_div(of.k, GEMM_CHUNK) * STAGES_IN_CHUNK;
    StageCopy<Shape> copy(of, place, shared);
    for (int s = 0; s < Shape::STAGES - 1; s++) {
        if (s < stages) copy.next(s);
        copy_async_commit();
    }
    Totals<Shape> totals(shared + Shape::STAGES * Shape::STAGE_PIECES);
    float sums[Shape::FEATURE_TILES][Shape::ROW_TILES][4] = {};
    int segment = 0, slot = 0, next_slot = Shape::STAGES - 1;
    for (int s = 0; s < stages; s++) {
        if (s == segment_begin(segment + 1, of.k) * STAGES_IN_CHUNK) {
            totals.take(sums);
            while (segment_begin(segment + 1, of.k) * STAGES_IN_CHUNK == s) segment++;
        }
        copy_async_wait<Shape::STAGES - 2>();
        __syncthreads();
        // The next slot is the one that all warps had done with before the barrier.
        if (s + Shape::STAGES - 1 < stages) copy.next(next_slot);
        copy_async_commit();
        multiply_stage<Shape>(shared + slot * Shape::STAGE_PIECES, sums);
        next_slot = slot;
        slot = slot + 1 == Shape::STAGES ? 0 : slot + 1;
    }
    copy_async_wait<0>();
    write_tile<Shape>(of, place, out, sums, totals);
}

#define GEMM_TILE(name, Shape, Out)                                                                                              \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)                                                              \
        name(const bf16* __restrict__ x, const bf16* __restrict__ w, Out* __restrict__ out, int m, int n, int k) {              \
        gemm_tile<Shape>(Product{x, w, m, n, k}, out);                                                                         \
    }
GEMM_TILE(gemm_tile_w, Tile, bf16)
GEMM_TILE(gemm_tile_f, Tile, float)
GEMM_TILE(gemm_wide_w, WideTile, bf16)
GEMM_TILE(gemm_wide_f, WideTile, float)
#undef GEMM_TILE
