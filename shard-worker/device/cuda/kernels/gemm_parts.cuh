// gemm_part, gemm_part8 and gemm_join_{w,f}: the products of gemm_tile for so few tiles that most of the device would have none: the
// segments of k, too, are dealt out to blocks, and their sums are added by a second kernel, in the order of gemm.cuh.
//
// gemm_part, for weights of e4m3 gemm_part8: partials = the sums of each segment.
//   grid    (ceil(n / 128) * ceil(m / 128), 1, parts): part z has segments 8 z / parts to 8 (z + 1) / parts; 1 to 8 parts
//   block   256
//   shared  98304 bytes, dynamic (GEMM_TILE_SHARED)
//   limit   as gemm_tile's, and 32 bytes written for a number of out
// gemm_join: out = the sums of the segments, added in order, times the scales where there are any.
//   grid    ceil(m n / 1024)
//   block   256
//   limit   memory, L2 where the sums fit it: 32 bytes read for a number of out
//
// partials: f32 [8][m n, rounded up to a multiple of 4].

/// Numbers of a segment's sums.
__device__ __forceinline__ size_t partial_stride(size_t numbers) { return (numbers + 3) / 4 * 4; }

/// Writes the sums of each segment.
template <class Shape, class W>
struct SegmentSums {
    const Product<W>& of;
    const TilePlace& place;
    float* partials;

    __device__ __forceinline__ void begin() {}
    __device__ __forceinline__ void take(int segment, float (&sums)[Shape::FEATURE_TILES][Shape::ROW_TILES][4]) {
        // Where numbers lie is not to be kept in registers from segment to segment.
        const int n = opaque(of.n);
        const int feature = place.feature + Shape::first_feature(), row = place.row + Shape::first_row();
        float* to = partials + size_t(segment) * partial_stride(size_t(of.m) * n);
#pragma unroll
        for (int f = 0; f < Shape::FEATURE_TILES; f++)
#pragma unroll
            for (int r = 0; r < Shape::ROW_TILES; r++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int to_feature = feature + f * 16 + sum_row(lane_id(), i), to_row = row + r * 8 + sum_column(lane_id(), i);
                    if (to_feature < n && to_row < of.m) to[size_t(to_row) * n + to_feature] = sums[f][r][i];
                }
#pragma unroll
        for (int f = 0; f < Shape::FEATURE_TILES; f++)
#pragma unroll
            for (int r = 0; r < Shape::ROW_TILES; r++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[f][r][i] = 0;
    }
};

template <class Shape, class W>
__device__ __forceinline__ void multiply_part(const Product<W>& of, float* partials) {
    DYNAMIC_SHARED(uint4, shared);
    const TilePlace place = tile_place<Shape>(of.m, of.n);
    const int parts = int(gridDim.z), first = GEMM_SEGMENTS * int(blockIdx.z) / parts, last = GEMM_SEGMENTS * int(blockIdx.z + 1) / parts;
    SegmentSums<Shape, W> ended{of, place, partials};
    float sums[Shape::FEATURE_TILES][Shape::ROW_TILES][4] = {};
    int segment = multiply_segments<Shape>(of, place, first, last, shared, ended, sums);
    while (segment < last) ended.take(segment++, sums);
}

extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)
    gemm_part(const bf16* x, const bf16* w, float* __restrict__ partials, int m, int n, int k) {
    wait_for_kernels_ahead();
    multiply_part<Tile>(Product<bf16>{x, w, nullptr, m, n, k}, partials);
}

extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)
    gemm_part8(const bf16* x, const e4m3* w, const float* scales, float* __restrict__ partials, int m, int n, int k) {
    wait_for_kernels_ahead();
    multiply_part<Tile8>(Product<e4m3>{x, w, scales, m, n, k}, partials);
}

/// `numbers` are m n, below 2^31; `scales` is null where weights are bf16.
template <class Out>
__device__ __forceinline__ void gemm_join(const float* partials, const float* scales, Out* out, int numbers, int n) {
    wait_for_kernels_ahead();
    for_numbers(numbers, [=](auto width, long long i) {
        constexpr int N = decltype(width)::N;
        Run<N> total{};
#pragma unroll
        for (int segment = 0; segment < GEMM_SEGMENTS; segment++) {
            const Run<N> sums = load<N>(partials + size_t(segment) * partial_stride(size_t(numbers)) + i);
            for (int j = 0; j < N; j++) total.v[j] = __fadd_rn(total.v[j], sums.v[j]);
        }
        if (scales)
            for (int j = 0; j < N; j++) total.v[j] = __fmul_rn(total.v[j], scales[(int(i) + j) % n]);
        store(out + i, total);
    });
}

extern "C" __global__ void gemm_join_w(const float* partials, const float* scales, bf16* __restrict__ out, int numbers, int n) {
    gemm_join(partials, scales, out, numbers, n);
}
extern "C" __global__ void gemm_join_f(const float* partials, const float* scales, float* __restrict__ out, int numbers, int n) {
    gemm_join(partials, scales, out, numbers, n);
}
