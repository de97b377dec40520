// Numbers of 8 bits.
// After: OCP 8-bit floating point (FP8) 1.0; the widening by a multiplication as in Marlin (arXiv:2408.11743).

/// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity. The two codes of NaN, 0x7f and 0xff, are never written.
struct e4m3 {
    unsigned char bits;
};
constexpr float E4M3_LARGEST = 448;
constexpr unsigned char E4M3_LARGEST_BITS = 0x7e;

/// Bytes LOW and HIGH of a register, two e4m3, as two bf16. Bits moved to the fields of bf16 mean the number times 2^-120,
/// subnormal numbers too.
template <int LOW, int HIGH>
__device__ __forceinline__ u32 widen_bytes(u32 four) {
    // From below: 0, the first, its sign eight times, the second; so that one shift moves both and extends both signs.
    int apart;
#ifdef CPU_CUDA
    const u32 low = four >> 8 * LOW & 0xffu, high = four >> 8 * HIGH & 0xffu;
    apart = int(low << 8 | (low & 0x80u ? 0xff0000u : 0) | high << 24);
#else
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(apart) : "r"(four), "n"(HIGH << 12 | (8 | LOW) << 8 | LOW << 4 | 4));
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

/// Rounds to nearest, ties to even; what is larger than the largest becomes the largest.
__device__ __forceinline__ e4m3 to_e4m3(float x) {
    const u32 bits = __float_as_uint(x), sign = bits >> 24 & 0x80u, size = bits & 0x7fffffffu;
    // Below 2^-6 the steps are 2^-9; from there on 3 bits of mantissa stay of 23.
    u32 code = __uint_as_float(size) < 0x1p-6f ? u32(__float2int_rn(__uint_as_float(size) * 0x1p9f))
                                               : ((size + 0x7ffffu + (size >> 20 & 1u)) >> 20) - (120u << 3);
    return {static_cast<unsigned char>(sign | (code < E4M3_LARGEST_BITS ? code : E4M3_LARGEST_BITS))};
}

/// What numbers whose largest is `most` are divided by, which becomes 448: 1 where all are zeros, NaN where `most` is not finite.
__device__ __forceinline__ float e4m3_scale(float most) {
    return most == 0 ? 1 : most < -minus_infinity() ? __fdiv_rn(most, E4M3_LARGEST) : not_a_number();
}
