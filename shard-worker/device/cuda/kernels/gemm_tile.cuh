// gemm_tile_{w,f}, gemm_wide_{w,f}, gemm_tile8_{w,f} and gemm_wide8_{w,f}: out[m, n] = x[m, k] w[n, k]^T for any m, with the
// order of sums of gemm.cuh; those with an 8 have weights of e4m3.
//
//                 features   rows of a tile   shared, dynamic                      through it for 64 of k   for
//   gemm_tile     128        128              98304 bytes (GEMM_TILE_SHARED)       128 KiB                  every device
//   gemm_tile8    128        128              98304 bytes (GEMM_TILE_SHARED)       104 KiB                  every device
//   gemm_wide     128        256              229376 bytes (GEMM_WIDE_SHARED)      176 KiB                  sm_90, m from about 512 on
//   gemm_wide8    128        256              212992 bytes (GEMM_WIDE8_SHARED)     136 KiB                  sm_90, m from about 512 on
//
//   grid    ceil(n / 128) * ceil(m / rows of a tile), in x; blocks that run together share weights and rows in L2
//   block   256: 4 by 2 warps of 32 features by 64 rows; of wide tiles 2 by 4 warps of 64 features by 64 rows
//   limit   mma.sync, about 620 TFLOP/s of an H100's 989, and shared memory at 128 bytes a cycle of an SM: gemm_tile's 2.1
//           MFLOP for 64 numbers of k take it 1024 cycles, so that some 400 TFLOP/s are to be had; a wide tile moves less for
//           its 4.2, also from L2 (some 480). Tile quantisation: a row tile costs the same however few of its rows are there.
//           e4m3: 2 instructions a number of a warp, 128 beside its 64 mma (64 of k; of wide tiles 32). Three in four are the
//           integer unit's, three quarters of its time at the peak of mma.
//
// Stages of k come through cp.async into a ring in shared memory, one barrier a stage, and the next is begun while a stage's
// first operands are on their way. At the end of a segment of k its sum is added to the total: in registers, or for wide
// tiles, whose sums take half of the register file, in shared memory. Weights of e4m3 stay so in shared memory; every warp
// widens them to bf16 as operands. Warps are laid out so that few share a weight where widening is dear beside a tile's mma.
// After: CUTLASS's multistage mainloop; tiles by groups of rows as in Triton's tutorial on matrix products.

constexpr int TILE_FEATURES = 128;
/// Row tiles that blocks go through before the next features.
constexpr int TILE_GROUP = 8;

template <int ROWS_, int STAGE_K_, int STAGES_, int FEATURE_WARPS, bool TOTALS_IN_SHARED_>
struct TileShape {
    static constexpr int ROWS = ROWS_, STAGE_K = STAGE_K_, STAGES = STAGES_, ROW_WARPS = GEMM_WARPS / FEATURE_WARPS;
    static constexpr bool TOTALS_IN_SHARED = TOTALS_IN_SHARED_;
    /// Features and rows of a warp, and its sums in tiles of 16 features and 8 rows.
    static constexpr int WARP_FEATURES = TILE_FEATURES / FEATURE_WARPS, WARP_ROWS = ROWS / ROW_WARPS;
    static constexpr int FEATURE_TILES = WARP_FEATURES / 16, ROW_TILES = WARP_ROWS / 8;
    static constexpr int TOTAL_BYTES = TOTALS_IN_SHARED ? TILE_FEATURES * ROWS * int(sizeof(float)) : 0;

    /// Pieces of a row of a stage.
    template <class T>
    static constexpr int PIECES = STAGE_K * int(sizeof(T)) / 16;
    /// Pieces of all stages of the rows, and with those of the features.
    static constexpr int ROW_PIECES = STAGES * ROWS * PIECES<bf16>;
    template <class W>
    static constexpr int ALL_PIECES = ROW_PIECES + STAGES * TILE_FEATURES * PIECES<W>;
    template <class W>
    static constexpr int SHARED = ALL_PIECES<W> * 16 + TOTAL_BYTES;

    static __device__ __forceinline__ int first_feature() { return warp_id() / ROW_WARPS * WARP_FEATURES; }
    static __device__ __forceinline__ int first_row() { return warp_id() % ROW_WARPS * WARP_ROWS; }
};
using Tile = TileShape<128, 64, 3, 4, false>;
using Tile8 = TileShape<128, 64, 4, 4, false>;
using WideTile = TileShape<256, 32, 4, 2, true>;
constexpr int GEMM_TILE_SHARED = Tile::SHARED<bf16>, GEMM_WIDE_SHARED = WideTile::SHARED<bf16>, GEMM_WIDE8_SHARED = WideTile::SHARED<e4m3>;
static_assert(GEMM_TILE_SHARED == 98304 && Tile8::SHARED<e4m3> == 98304 && GEMM_WIDE_SHARED == 229376 && GEMM_WIDE8_SHARED == 212992, "the comment above");

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

/// Copies stages of ROWS rows, a 16-byte piece of every PASS-th of them to a thread.
template <class T, int ROWS, int PIECES>
struct RowCopy {
    static constexpr int NUMBERS = 16 / int(sizeof(T)), PASS = GEMM_THREADS / PIECES, PASSES = ROWS / PASS;

    const T* from;
    size_t step;
    int left;
    u32 there;
    uint4* to;

    /// Rows `first`.. `end` of a matrix of k columns, from column `from_k`.
    __device__ RowCopy(const T* rows, int first, int end, int from_k, int k, uint4* to) : step(size_t(PASS) * k), there(0) {
        const int row = int(threadIdx.x) / PIECES, piece = int(threadIdx.x) % PIECES;
        from = rows + size_t(first + row) * k + from_k + piece * NUMBERS;
        left = k - from_k - piece * NUMBERS;
        for (int pass = 0; pass < PASSES; pass++) there |= u32(first + row + pass * PASS < end) << pass;
        this->to = to + piece_at<PIECES>(row, piece);
    }

    /// Begins the copy of the next numbers of k; beyond the end of k and of the rows come zeros.
    __device__ __forceinline__ void next(int slot) {
        const u32 now = left > 0 ? there : 0;
        const T* row = from;
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            copy_async_16(to + slot * ROWS * PIECES + pass * PASS * PIECES, row, now >> pass & 1 ? 16 : 0);
            row += step;
        }
        from += PIECES * NUMBERS, left -= PIECES * NUMBERS;
    }
};

/// A lane's 16 features by 32 numbers, from number `k` of a stage, as the A operands of two mma.
template <class W, int PIECES>
__device__ __forceinline__ void load_weights(const uint4* stage, int feature, int k, u32 (&w)[2][4]) {
    if constexpr (sizeof(W) == 2) {
#pragma unroll
        for (int step = 0; step < 2; step++) ldmatrix_x4(w[step], stage + piece_at<PIECES>(feature, k / 8 + step * 2 + lane_id() / 16));
    } else {
        u32 codes[4];
        ldmatrix_x4(codes, stage + piece_at<PIECES>(feature, k / 16 + lane_id() / 16));
        widen_operands(codes, w[0], w[1]);
    }
}

/// A warp's sums += one stage. `meanwhile` is done while the first operands are on their way.
template <class Shape, class W, class Meanwhile>
__device__ __forceinline__ void multiply_stage(const uint4* weights, const uint4* rows, float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4],
                                               Meanwhile meanwhile) {
    constexpr int PIECES = Shape::template PIECES<bf16>, WEIGHT_PIECES = Shape::template PIECES<W>;
    // Lanes bring addresses: of weights for 16 features by 2 pieces, of activations for 8 rows by 4 pieces.
    const int feature = Shape::first_feature() + lane_id() % 16, row = Shape::first_row() + lane_id() % 8;
#pragma unroll
    for (int k = 0; k < Shape::STAGE_K; k += 4 * PIECE) {
        u32 x[Shape::ROW_TILES][4];
        const uint4* from = rows + piece_at<PIECES>(row, k / PIECE + lane_id() / 8);
#pragma unroll
        for (int r = 0; r < Shape::ROW_TILES; r++) ldmatrix_x4(x[r], from + r * 8 * PIECES);
        if (k == 0) meanwhile();
#pragma unroll
        for (int f = 0; f < Shape::FEATURE_TILES; f++) {
            u32 w[2][4];
            load_weights<W, WEIGHT_PIECES>(weights + f * 16 * WEIGHT_PIECES, feature, k, w);
#pragma unroll
            for (int step = 0; step < 2; step++)
#pragma unroll
                for (int r = 0; r < Shape::ROW_TILES; r++) {
                    const u32 pair[2] = {x[r][step * 2], x[r][step * 2 + 1]};
                    mma_m16n8k16(sums[f][r], w[step], pair);
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

/// A block's products over segments `segment`.. `last` of k. `ended` takes the sums of each but those behind the last stage,
/// from the segment that is returned on.
template <class Shape, class W, class Ended>
__device__ __forceinline__ int multiply_segments(const Product<W>& of, const TilePlace& place, int segment, int last, uint4* shared, Ended& ended,
                                                 float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4]) {
    constexpr int STAGES_IN_CHUNK = GEMM_CHUNK / Shape::STAGE_K, STAGES = Shape::STAGES;
    constexpr int PIECES = Shape::template PIECES<bf16>, WEIGHT_PIECES = Shape::template PIECES<W>;
    const int first = segment_begin(segment, of.k) * STAGES_IN_CHUNK, stages = segment_begin(last, of.k) * STAGES_IN_CHUNK - first;
    uint4* shared_weights = shared + Shape::ROW_PIECES;
    RowCopy<bf16, Shape::ROWS, PIECES> rows(of.x, place.row, of.m, first * Shape::STAGE_K, of.k, shared);
    RowCopy<W, TILE_FEATURES, WEIGHT_PIECES> weights(of.w, place.feature, of.n, first * Shape::STAGE_K, of.k, shared_weights);
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < stages) rows.next(s), weights.next(s);
        copy_async_commit();
    }
    ended.begin();
    // Slots of the stage that is multiplied and of the one that is copied.
    int slot = 0, copied = STAGES - 1;
    for (int s = 0; s < stages; s++) {
        while (first + s == segment_begin(segment + 1, of.k) * STAGES_IN_CHUNK) ended.take(segment++, sums);
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        multiply_stage<Shape, W>(shared_weights + slot * TILE_FEATURES * WEIGHT_PIECES, shared + slot * Shape::ROWS * PIECES, sums, [&] {
            // All warps had done with what lies in the last slot before the barrier.
            if (s + STAGES - 1 < stages) rows.next(copied), weights.next(copied);
            copy_async_commit();
        });
        copied = slot;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
    copy_async_wait<0>();
    return segment;
}

/// Writes a warp's sums, finished. They go through shared memory, with 16 bytes beside each row against bank conflicts, since
/// lanes have sums of few neighbouring features, and write whole sectors of them.
template <class Shape, class W, class Out>
__device__ __forceinline__ void write_sums(const Product<W>& of, const TilePlace& place, const float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4],
                                           uint4* shared, Out* out) {
    constexpr int NUMBERS = 16 / int(sizeof(Out)), PIECES = Shape::WARP_FEATURES / NUMBERS, STRIDE = (PIECES + 1) * NUMBERS;
    static_assert(GEMM_WARPS * Shape::WARP_ROWS * (PIECES + 1) * 16 <= Shape::template SHARED<W>, "all warps' sums have room");
    Out* mine = reinterpret_cast<Out*>(shared) + warp_id() * Shape::WARP_ROWS * STRIDE;
    const int first_feature = place.feature + Shape::first_feature(), first_row = place.row + Shape::first_row();
#pragma unroll
    for (int f = 0; f < Shape::FEATURE_TILES; f++)
#pragma unroll
        for (int r = 0; r < Shape::ROW_TILES; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int feature = f * 16 + sum_row(lane_id(), i), row = r * 8 + sum_column(lane_id(), i);
                mine[row * STRIDE + feature] = from_float<Out>(of.finish(sums[f][r][i], min(first_feature + feature, of.n - 1)));
            }
    __syncwarp();
    for (int i = lane_id(); i < Shape::WARP_ROWS * PIECES; i += WARP_LANES) {
        const int row = first_row + i / PIECES, feature = first_feature + i % PIECES * NUMBERS;
        if (row >= of.m || feature >= of.n) continue;
        const Out* from = mine + i / PIECES * STRIDE + i % PIECES * NUMBERS;
        Out* to = out + size_t(row) * of.n + feature;
        if (of.n % NUMBERS == 0)
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        else
            for (int j = 0; j < min(NUMBERS, of.n - feature); j++) to[j] = from[j];
    }
}

template <class Shape, class W, class Out>
__device__ __forceinline__ void gemm_tile(const Product<W>& of, Out* out) {
    wait_for_kernels_ahead();
    DYNAMIC_SHARED(uint4, shared);
    const TilePlace place = tile_place<Shape>(of.m, of.n);
    Totals<Shape> totals(shared + Shape::template ALL_PIECES<W>);
    float sums[Shape::FEATURE_TILES][Shape::ROW_TILES][4] = {};
    multiply_segments<Shape>(of, place, 0, GEMM_SEGMENTS, shared, totals, sums);
#pragma unroll
    for (int f = 0; f < Shape::FEATURE_TILES; f++)
#pragma unroll
        for (int r = 0; r < Shape::ROW_TILES; r++) totals.add_to(sums[f][r], f, r);
    // All warps have done with the stages and with their totals.
    __syncthreads();
    write_sums<Shape>(of, place, sums, shared, out);
}

#define GEMM_TILE(name, Shape, Out)                                                                                              \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)                                                              \
        name(const bf16* x, const bf16* w, Out* __restrict__ out, int m, int n, int k) {                                        \
        gemm_tile<Shape>(Product<bf16>{x, w, nullptr, m, n, k}, out);                                                          \
    }
#define GEMM_TILE8(name, Shape, Out)                                                                                             \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)                                                              \
        name(const bf16* x, const e4m3* w, const float* scales, Out* __restrict__ out, int m, int n, int k) { \
        gemm_tile<Shape>(Product<e4m3>{x, w, scales, m, n, k}, out);                                                           \
    }
GEMM_TILE(gemm_tile_w, Tile, bf16)
GEMM_TILE(gemm_tile_f, Tile, float)
GEMM_TILE(gemm_wide_w, WideTile, bf16)
GEMM_TILE(gemm_wide_f, WideTile, float)
GEMM_TILE8(gemm_tile8_w, Tile8, bf16)
GEMM_TILE8(gemm_tile8_f, Tile8, float)
GEMM_TILE8(gemm_wide8_w, WideTile, bf16)
GEMM_TILE8(gemm_wide8_f, WideTile, float)
#undef GEMM_TILE
#undef GEMM_TILE8
