// Weights of 8 bits: e4m3 with an f32 scale for each row, w = scale * e4m3.
//
// The products widen them to bf16, which is exact, and sum as they do over bf16 weights (gemm.cuh); the sum is then
// multiplied by the scale. So the bits are those of the product with the widened weights, times the scale.

/// quantise_rows: out[row] = w[row] / scales[row], rounded to e4m3, the row's largest number becoming 448 (e4m3_scale).
///   grid n, block 256; limit: memory, 5 bytes a number (the row is read again from L1 or L2)
extern "C" __global__ void __launch_bounds__(256) quantise_rows(const bf16* __restrict__ w, e4m3* __restrict__ out, float* __restrict__ scales, int k) {
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
    for (int i = int(threadIdx.x); i < k; i += 256) out[size_t(blockIdx.x) * k + i] = to_e4m3(__fdiv_rn(to_float(row[i]), scale));
}
