// What the matrix products share: out[m, n] = x[m, k] w[n, k]^T, and the order in which k is summed.
//
// K is cut into 8 segments at multiples of 64. Within a segment mma.m16n8k16 takes 16 numbers of k after the other, from 0,
// in f32; weights are its A operand (16 features), activations its B operand (8 rows), so a row is a column of the product
// and depends on no other row. The segments are then added in order, from 0, and rounded once. gemm_small gives each
// segment to a warp, gemm_tile runs through them one after another, gemm_part has them in any block: the bits are the same.
//
// k is a multiple of 8, and of 16 where weights are e4m3; what is missing to a multiple of 64 counts as zeros. x, w and out begin
// at multiples of 16 bytes.

constexpr int GEMM_THREADS = 256;
constexpr int GEMM_WARPS = GEMM_THREADS / WARP_LANES;
constexpr int GEMM_SEGMENTS = 8;
/// Segments begin at multiples of this many numbers of k.
constexpr int GEMM_CHUNK = 64;

/// What is multiplied: x[m, k] and w[n, k], of bf16 or of e4m3 with a scale for each row of w.
template <class W>
struct Product {
    const bf16* x;
    const W* w;
    const float* scales;
    int m, n, k;

    /// A feature's number in out, from its sum.
    __device__ __forceinline__ float finish(float sum, int feature) const {
        if constexpr (sizeof(W) == 1)
            return __fmul_rn(sum, scales[feature]);
        else
            return sum;
    }
};

/// Where a segment begins, in chunks of 64; segment 8 is where k ends. A segment may be empty.
__device__ __forceinline__ int segment_begin(int segment, int k) {
    return segment == GEMM_SEGMENTS ? ceil_div(k, GEMM_CHUNK) : (segment * k + GEMM_SEGMENTS * GEMM_CHUNK / 2) / (GEMM_SEGMENTS * GEMM_CHUNK);
}
