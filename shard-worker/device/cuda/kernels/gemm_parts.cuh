// gemm_part and gemm_join_{w,f}: the products of gemm_tile for so few tiles that most of the device would have none: the
// segments of k, too, are dealt out to blocks, and their sums are added by a second kernel, in the order of gemm.cuh.
//
// gemm_part: partials = the sums of each segment.
//   grid    (ceil(n / 128) * ceil(m / 128), 1, parts): part z has segments 8 z / parts to 8 (z + 1) / parts; 1 to 8 parts
//   block   256
//   shared  98304 bytes, dynamic (GEMM_TILE_SHARED)
//   limit   as gemm_tile's, and 32 bytes written for a number of out
// gemm_join: out = the sums of the segments, added in order.
//   grid    ceil(m n / 1024)
//   block   256
//   limit   memory, L2 where the sums fit it: 32 bytes read for a number of out
//
// partials: f32 [8][m n, rounded up to a multiple of 4].

/// Numbers of a segment's sums.
__device__ __forceinline__ size_t partial_stride(size_t numbers) { return (numbers + 3) / 4 * 4; }

/// Writes the sums of each segment.
struct SegmentSums {
    const Product<bf16>& of;
    const TilePlace& place;
    float* partials;

    __device__ __forceinline__ void begin() {}
    __device__ __forceinline__ void take(int segment, float (&sums)[Tile::FEATURE_TILES][Tile::ROW_TILES][4]) {
        float* to = partials + size_t(segment) * partial_stride(size_t(of.m) * of.n);
        for_sums<Tile>(of, place, [&](int f, int r, int i, size_t at) { to[at] = sums[f][r][i]; });
#pragma unroll
        for (int f = 0; f < Tile::FEATURE_TILES; f++)
#pragma unroll
            for (int r = 0; r < Tile::ROW_TILES; r++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[f][r][i] = 0;
    }
};

__device__ __forceinline__ void multiply_part(const Product<bf16>& of, float* partials) {
    DYNAMIC_SHARED(uint4, shared);
    const TilePlace place = tile_place<Tile>(of.m, of.n);
    const int parts = int(gridDim.z), first = GEMM_SEGMENTS * int(blockIdx.z) / parts, last = GEMM_SEGMENTS * int(blockIdx.z + 1) / parts;
    SegmentSums ended{of, place, partials};
    float sums[Tile::FEATURE_TILES][Tile::ROW_TILES][4] = {};
    int segment = multiply_segments<Tile>(of, place, first, last, shared, ended, sums);
    while (segment < last) ended.take(segment++, sums);
}

extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)
    gemm_part(const bf16* x, const bf16* w, float* __restrict__ partials, int m, int n, int k) {
    wait_for_kernels_ahead();
    multiply_part(Product<bf16>{x, w, nullptr, m, n, k}, partials);
}

template <class Out>
__device__ __forceinline__ void gemm_join(const float* partials, Out* out, long long numbers) {
    wait_for_kernels_ahead();
    for_numbers(numbers, [=](auto width, long long i) {
        constexpr int N = decltype(width)::N;
        Run<N> total{};
#pragma unroll
        for (int segment = 0; segment < GEMM_SEGMENTS; segment++) {
            const Run<N> sums = load<N>(partials + size_t(segment) * partial_stride(size_t(numbers)) + i);
            for (int j = 0; j < N; j++) total.v[j] = __fadd_rn(total.v[j], sums.v[j]);
        }
        store(out + i, total);
    });
}

extern "C" __global__ void gemm_join_w(const float* partials, bf16* __restrict__ out, long long numbers) { gemm_join(partials, out, numbers); }
extern "C" __global__ void gemm_join_f(const float* partials, float* __restrict__ out, long long numbers) { gemm_join(partials, out, numbers); }
