// gemm_small_{w,f} and gemm_small8_{w,f}: out[m, n] = x[m, k] w[n, k]^T for m <= 64, with the order of sums of gemm.cuh;
// gemm_small8 has weights of e4m3.
//
//   grid    any number of blocks; best min(ceil(n / F), SMs), F = 16 features for m <= 8 (32 of e4m3), 32 for m <= 16, else 64
//   block   256
//   shared  98304 bytes, dynamic (GEMM_SMALL_SHARED)
//   limit   memory: every weight is read once, 2 n k bytes (gemm_small8: n k) at 3.35 TB/s on an H100, of which some 3.0 can be
//           had; for gemm_small8 from m = 32 on, and gemm_small at 64, also L2, which gives each block its activations
//
// A warp owns a segment of k, so a block's 8 warps stream 8 places of the same features. Each warp copies its weights to a
// ring of its own in shared memory, where 8 rows' pieces of 16 bytes lie side by side as ldmatrix reads them: no barrier
// of the block and no bank conflict, and 64 KiB are under way on every SM, three times what latency asks for. The ring
// runs on over the features that the block comes to next, so the join of the warps' sums does not interrupt the stream,
// and the last blocks still fill the memory. Activations come from L1 and L2; F keeps their traffic at or below that of
// the weights. After: Little's law; CUTLASS's slicing of k within a block.

constexpr int RING_BYTES = 80 * 1024;
/// Sums of 16 by 8 that are joined at a time.
constexpr int JOIN_SUMS = 2;
constexpr int SUM_NUMBERS = 16 * 8;
constexpr int JOIN_NUMBERS = GEMM_WARPS * JOIN_SUMS * SUM_NUMBERS;
constexpr int GEMM_SMALL_SHARED = RING_BYTES + 2 * JOIN_NUMBERS * int(sizeof(float));
static_assert(GEMM_SEGMENTS == GEMM_WARPS && JOIN_SUMS * SUM_NUMBERS == GEMM_THREADS, "a warp a segment, a thread a sum");

/// The order of the L2 for what is read once: it goes before what is read again.
__device__ __forceinline__ u64 evict_first() {
    u64 policy = 0;
#ifndef CPU_CUDA
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
    return policy;
}

__device__ __forceinline__ void copy_async_16_once(void* shared, const void* global, unsigned bytes, u64 policy) {
#ifdef CPU_CUDA
    (void)policy;
    copy_async_16(shared, global, bytes);
#else
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes), "l"(policy)
                 : "memory");
#endif
}

/// The weights of a warp in the order it uses them: groups of F features, k, an entry's share of the group.
template <class W, int F, int ENTRY_K>
struct WeightStream {
    /// An entry: 16 features by ENTRY_K numbers of bf16, twice as many features of e4m3; in 16-byte pieces, for each 16
    /// features [numbers][features].
    static constexpr int TILES = 2 / int(sizeof(W)), FEATURES = 16 * TILES, STEPS = ENTRY_K / MMA_K;
    static constexpr int NUMBERS = 16 / int(sizeof(W)), PIECES = ENTRY_K / NUMBERS, ENTRY_PIECES = FEATURES * PIECES;
    static constexpr int ENTRIES = RING_BYTES / (GEMM_WARPS * ENTRY_PIECES * 16);
    /// A copy by all lanes takes this many pieces of each of this many features.
    static constexpr int COPY_PIECES = PIECES < 4 ? PIECES : 4, COPY_FEATURES = WARP_LANES / COPY_PIECES;

    const Product<W>& of;
    uint4* ring;
    u64 policy;
    int begin, end, groups;
    int group, at, share, slot;

    __device__ WeightStream(const Product<W>& of, uint4* shared, int begin, int end)
        : of(of), ring(shared + warp_id() * ENTRIES * ENTRY_PIECES), policy(evict_first()), begin(begin), end(end),
          groups(begin < end ? ceil_div(of.n, F) : 0), group(int(blockIdx.x)), at(begin), share(0), slot(0) {}

    /// Begins the copy of the next entry, if there is one.
    __device__ __forceinline__ void copy_next() {
        if (group < groups) {
            const int lane_feature = lane_id() % COPY_FEATURES, lane_piece = lane_id() / COPY_FEATURES;
            const int feature = group * F + share * FEATURES + lane_feature, number = at + lane_piece * NUMBERS;
            const W* from = of.w + size_t(feature) * of.k + number;
            uint4* to = ring + slot * ENTRY_PIECES + lane_piece * 16 + lane_feature;
#pragma unroll
            for (int more = 0; more < FEATURES; more += COPY_FEATURES)
#pragma unroll
                for (int piece = 0; piece < PIECES; piece += COPY_PIECES) {
                    const bool there = feature + more < of.n && number + piece * NUMBERS < of.k;
                    copy_async_16_once(to + (more / 16 * PIECES + piece) * 16 + more % 16, from + size_t(more) * of.k + piece * NUMBERS, there ? 16 : 0, policy);
                }
            if (++share == F / FEATURES) share = 0, at += ENTRY_K;
            if (at >= end) at = begin, group += int(gridDim.x);
        }
        copy_async_commit();
        slot = slot + 1 == ENTRIES ? 0 : slot + 1;
    }

    /// Waits for the oldest entry, begins the copy of one more and gives the oldest as A operands.
    __device__ __forceinline__ void take(u32 (&w)[TILES][STEPS][4]) {
        copy_async_wait<ENTRIES - 2>();
        // The lanes' pieces are there for all, and all have read what lay in `slot`, which was the oldest last time.
        __syncwarp();
        const uint4* oldest = ring + (slot + 1 == ENTRIES ? 0 : slot + 1) * ENTRY_PIECES;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int step = 0; step < STEPS; step += 2) load_operands(oldest + (tile * PIECES + step * (MMA_K / NUMBERS)) * 16, w[tile][step], w[tile][step + 1]);
        copy_next();
    }

    /// The A operands of two mma from their numbers' pieces.
    static __device__ __forceinline__ void load_operands(const uint4* pieces, u32 (&w)[4], u32 (&next)[4]) {
        if constexpr (sizeof(W) == 2) {
            ldmatrix_x4(w, pieces + lane_id());
            ldmatrix_x4(next, pieces + 2 * 16 + lane_id());
        } else {
            u32 codes[4];
            ldmatrix_x4(codes, pieces + lane_id());
            widen_operands(codes, w, next);
        }
    }
};

/// Word `lane` of each of 4 lanes' words to each lane: a 4 by 4 transpose within 4 neighbouring lanes.
__device__ __forceinline__ void transpose_in_fours(const uint4& word, u32 (&out)[4]) {
    bool upper = lane_id() & 2, odd = lane_id() & 1;
    u32 x = __shfl_xor_sync(ALL_LANES, upper ? word.x : word.z, 2), y = __shfl_xor_sync(ALL_LANES, upper ? word.y : word.w, 2);
    u32 first[2] = {upper ? x : word.x, upper ? y : word.y}, second[2] = {upper ? word.z : x, upper ? word.w : y};
    u32 a = __shfl_xor_sync(ALL_LANES, odd ? first[0] : first[1], 1), b = __shfl_xor_sync(ALL_LANES, odd ? second[0] : second[1], 1);
    out[0] = odd ? a : first[0], out[1] = odd ? first[1] : a;
    out[2] = odd ? b : second[0], out[3] = odd ? second[1] : b;
}

/// 8 rows from `row` by 32 numbers of k from `number` as two B operands, from a 16-byte load of each lane.
template <class W>
__device__ __forceinline__ void load_activations(const Product<W>& of, int row, int number, u32 (&x)[4]) {
    row += lane_id() / 4, number += lane_id() % 4 * PIECE;
    uint4 piece = make_uint4(0, 0, 0, 0);
    if (row < of.m && number < of.k) piece = *reinterpret_cast<const uint4*>(of.x + size_t(row) * of.k + number);
    transpose_in_fours(piece, x);
}

/// Adds the warps' sums in the order of their segments, some sums at a time, and writes them.
template <int FEATURE_TILES, int ROW_TILES, class W, class Out>
__device__ __forceinline__ void join_segments(const Product<W>& of, Out* out, float* join, int& turn, int first,
                                              const float (&sums)[FEATURE_TILES * ROW_TILES][4]) {
    constexpr int SUMS = FEATURE_TILES * ROW_TILES;
#pragma unroll
    for (int s = 0; s < SUMS; s += JOIN_SUMS) {
        // Two halves by turns: who writes one has passed the barrier after everybody's reads of it.
        float* half = join + turn * JOIN_NUMBERS;
        turn ^= 1;
#pragma unroll
        for (int i = 0; i < JOIN_SUMS; i++)
            if (s + i < SUMS)
                reinterpret_cast<float4*>(half)[(warp_id() * JOIN_SUMS + i) * WARP_LANES + lane_id()] =
                    make_float4(sums[s + i][0], sums[s + i][1], sums[s + i][2], sums[s + i][3]);
        __syncthreads();
        int mine = s + int(threadIdx.x) / SUM_NUMBERS, number = int(threadIdx.x) % SUM_NUMBERS;
        int feature = first + mine / ROW_TILES * 16 + sum_row(number / 4, number % 4);
        int row = mine % ROW_TILES * 8 + sum_column(number / 4, number % 4);
        if (mine < SUMS && feature < of.n && row < of.m) {
            float total = 0;
#pragma unroll
            for (int segment = 0; segment < GEMM_SEGMENTS; segment++) total = __fadd_rn(total, half[segment * GEMM_THREADS + int(threadIdx.x)]);
            out[size_t(row) * of.n + feature] = from_float<Out>(of.finish(total, feature));
        }
    }
}

template <int FEATURE_TILES, int ROW_TILES, int ENTRY_K, class W, class Out>
__device__ __forceinline__ void multiply_small(const Product<W>& of, Out* out, uint4* shared) {
    constexpr int F = FEATURE_TILES * 16;
    using Stream = WeightStream<W, F, ENTRY_K>;
    float* join = reinterpret_cast<float*>(shared + RING_BYTES / 16);
    int begin = segment_begin(warp_id(), of.k) * GEMM_CHUNK, end = segment_begin(warp_id() + 1, of.k) * GEMM_CHUNK;
    Stream weights(of, shared, begin, end);
    for (int i = 0; i < Stream::ENTRIES - 1; i++) weights.copy_next();
    // The host launches nothing that overlaps a kernel which writes weights, so their stream begins while the one ahead runs.
    wait_for_kernels_ahead();
    int turn = 0;
    for (int first = int(blockIdx.x) * F; first < of.n; first += int(gridDim.x) * F) {
        float sums[FEATURE_TILES * ROW_TILES][4] = {};
        for (int at = begin; at < end; at += ENTRY_K) {
            u32 x[ROW_TILES][ENTRY_K / 32][4];
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++)
#pragma unroll
                for (int k = 0; k < ENTRY_K / 32; k++) load_activations(of, r * 8, at + k * 32, x[r][k]);
#pragma unroll
            for (int f = 0; f < FEATURE_TILES; f += Stream::TILES) {
                u32 w[Stream::TILES][Stream::STEPS][4];
                weights.take(w);
#pragma unroll
                for (int step = 0; step < Stream::STEPS; step++)
#pragma unroll
                    for (int tile = 0; tile < Stream::TILES; tile++)
#pragma unroll
                        for (int r = 0; r < ROW_TILES; r++) {
                            const u32 pair[2] = {x[r][step / 2][step % 2 * 2], x[r][step / 2][step % 2 * 2 + 1]};
                            mma_m16n8k16(sums[(f + tile) * ROW_TILES + r], w[tile][step], pair);
                        }
            }
        }
        join_segments<FEATURE_TILES, ROW_TILES>(of, out, join, turn, first, sums);
    }
    copy_async_wait<0>();
}

template <class W, class Out>
__device__ __forceinline__ void gemm_small(const Product<W>& of, Out* out) {
    DYNAMIC_SHARED(uint4, shared);
    if (of.m <= 8)
        multiply_small<2 / int(sizeof(W)), 1, 64>(of, out, shared);
    else if (of.m <= 16)
        multiply_small<2, 2, 64>(of, out, shared);
    else if (of.m <= 32)
        multiply_small<4, 4, 32>(of, out, shared);
    else
        multiply_small<4, 8, 32>(of, out, shared);
}

#define GEMM_SMALL(suffix, Out)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)                                                                     \
        gemm_small_##suffix(const bf16* x, const bf16* w, Out* __restrict__ out, int m, int n, int k) {                               \
        gemm_small(Product<bf16>{x, w, nullptr, m, n, k}, out);                                                                       \
    }                                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)                                                                     \
        gemm_small8_##suffix(const bf16* x, const e4m3* w, const float* scales, Out* __restrict__ out, int m,                                        \
                             int n, int k) {                                                                                          \
        gemm_small(Product<e4m3>{x, w, scales, m, n, k}, out);                                                                        \
    }
GEMM_SMALL(w, bf16)
GEMM_SMALL(f, float)
#undef GEMM_SMALL
