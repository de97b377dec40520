// Weights of 8 bits: e4m3 with an f32 scale for each row, w = scale * e4m3.
//
// A row lies in memory in the order of e4m3_place: ldmatrix, to which two of them are one number, then hands a lane the four
// that it brings to an mma of bf16, in one register, and each is widened where it is multiplied.
// The products widen them to bf16, which is exact, and sum as they do over bf16 weights (gemm.cuh); the sum is then
// multiplied by the scale. So the bits are those of the product with the widened weights, times the scale.
// After: OCP 8-bit floating point (FP8) 1.0; the widening by a multiplication as in Marlin (arXiv:2408.11743).

/// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity. The two codes of NaN, 0x7f and 0xff, are never written.
struct e4m3 {
    unsigned char bits;
};
constexpr float E4M3_LARGEST = 448;
constexpr unsigned char E4M3_LARGEST_BITS = 0x7e;

/// Where number k of a row lies: of each 16, in the order 0 1 8 9, 2 3 10 11, 4 5 12 13, 6 7 14 15.
__device__ __forceinline__ int e4m3_place(int k) { return (k & ~15) | (k & 6) << 1 | (k & 8) >> 2 | (k & 1); }

/// Two e4m3 in the lower or the UPPER half of a register as two bf16, by four instructions. Bits moved to the fields of bf16
/// mean the number times 2^-120, subnormal numbers too.
template <bool UPPER = false>
__device__ __forceinline__ u32 widen_pair(u32 codes) {
    // From below: 0, the first, its sign eight times, the second; so that one shift moves both and extends both signs.
    int apart;
#ifdef CPU_CUDA
    const u32 two = UPPER ? codes >> 16 : codes;
    apart = int((two & 0xffu) << 8 | (two & 0x80u ? 0xff0000u : 0) | (two & 0xff00u) << 16);
#else
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(apart) : "r"(codes), "n"(UPPER ? 0x3a24 : 0x1804));
#endif
    const u32 bits = u32(apart >> 4) & 0x87f087f0u;
#ifdef CPU_CUDA
    return pack(low_half(bits) * 0x1p120f, high_half(bits) * 0x1p120f);
#else
    u32 wide;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(wide) : "r"(bits), "r"(0x7b807b80u), "r"(0x80008000u));
    return wide;
#endif
}

/// 16 features by 32 numbers of k as ldmatrix_x4 gives them, features 0-7 and 8-15 of the first 16 numbers first, as the A
/// operands of two mma.
__device__ __forceinline__ void widen_operands(const u32 (&codes)[4], u32 (&w)[4], u32 (&next)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        w[i] = widen_pair(codes[i]), w[i + 2] = widen_pair<true>(codes[i]);
        next[i] = widen_pair(codes[i + 2]), next[i + 2] = widen_pair<true>(codes[i + 2]);
    }
}

/// Rounds to nearest, ties to even; what is larger than the largest becomes the largest.
__device__ __forceinline__ e4m3 to_e4m3(float x) {
    const u32 bits = __float_as_uint(x), sign = bits >> 24 & 0x80u, size = bits & 0x7fffffffu;
    // Below 2^-6 the steps are 2^-9; from there on 3 bits of mantissa stay of 23.
    u32 code = __uint_as_float(size) < 0x1p-6f ? u32(__float2int_rn(__uint_as_float(size) * 0x1p9f))
                                               : ((size + 0x7ffffu + (size >> 20 & 1u)) >> 20) - (120u << 3);
    return {static_cast<unsigned char>(sign | (code < E4M3_LARGEST_BITS ? code : E4M3_LARGEST_BITS))};
}

/// quantise_rows: out[row] = w[row] / scales[row], rounded to e4m3, the row's largest number becoming 448, in the order of
/// e4m3_place; k is a multiple of 16. A row of zeros has scale 1; a row with a number that is not finite has scale NaN.
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
    const float scale = most == 0 ? 1 : most < -minus_infinity() ? __fdiv_rn(most, E4M3_LARGEST) : not_a_number();
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (int i = int(threadIdx.x); i < k; i += 256) out[size_t(blockIdx.x) * k + e4m3_place(i)] = to_e4m3(__fdiv_rn(to_float(row[i]), scale));
}
