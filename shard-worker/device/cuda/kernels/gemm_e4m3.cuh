// Weights of 8 bits: e4m3 with an f32 scale for each row, w = scale * e4m3.
//
// A row lies in memory in the order of e4m3_place: ldmatrix, to which two of them are one number, then hands a lane the four
// that it brings to an mma of bf16, in one register, and each is widened where it is multiplied.
// The products widen them to bf16, which is exact, and sum as they do over bf16 weights (gemm.cuh); the sum is then
// multiplied by the scale. So the bits are those of the product with the widened weights, times the scale.

/// Where number k of a row lies: of each 16, in the order 0 1 8 9, 2 3 10 11, 4 5 12 13, 6 7 14 15.
__device__ __forceinline__ int e4m3_place(int k) { return (k & ~15) | (k & 6) << 1 | (k & 8) >> 2 | (k & 1); }

/// 16 features by 32 numbers of k as ldmatrix_x4 gives them, features 0-7 and 8-15 of the first 16 numbers first, as the A
/// operands of two mma.
__device__ __forceinline__ void widen_operands(const u32 (&codes)[4], u32 (&w)[4], u32 (&next)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        w[i] = widen_bytes<0, 1>(codes[i]), w[i + 2] = widen_bytes<2, 3>(codes[i]);
        next[i] = widen_bytes<0, 1>(codes[i + 2]), next[i + 2] = widen_bytes<2, 3>(codes[i + 2]);
    }
}

/// quantise_rows: out[row] = w[row] / scales[row], rounded to e4m3, the row's largest number becoming 448 (e4m3_scale), in the
/// order of e4m3_place; k is a multiple of 16.
///   grid n, block 256; limit: memory, 5 bytes a number (the row is read again from L1 or L2)
extern "C" __global__ void __launch_bounds__(256) quantise_rows(const bf16* w, e4m3* __restrict__ out, float* __restrict__ scales, int k) {
    wait_for_kernels_ahead();
    __shared__ float of_warps[256 / WARP_LANES];
    const bf16* row = w + size_t(blockIdx.x) * k;
    float most = 0;
    bool finite = true;
    for (int i = int(threadIdx.x); i < k; i += 256) {
        const float size = fabsf(to_float(row[i]));
        most = fmaxf(most, size), finite &= size < -minus_infinity();
    }
    most = warp_max(finite ? most : -minus_infinity());
    if (lane_id() == 0) of_warps[warp_id()] = most;
    __syncthreads();
    for (int warp = 0; warp < 256 / WARP_LANES; warp++) most = fmaxf(most, of_warps[warp]);
    const float scale = e4m3_scale(most);
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (int i = int(threadIdx.x); i < k; i += 256) out[size_t(blockIdx.x) * k + e4m3_place(i)] = to_e4m3(__fdiv_rn(to_float(row[i]), scale));
}
