// Numbers and reductions that every kernel uses.
//
// The kernels need no header and no include path: the text of the files that all.cu names, one after the other, compiles
// by NVRTC with --std=c++17 --device-as-default-execution-space, and by g++ after shim/cpu_cuda.h.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 ALL_LANES = 0xffffffffu;
constexpr int WARP_LANES = 32;
/// Tokens in a block of the cache.
constexpr int BLOCK_TOKENS = 16;

/// A bfloat16: the upper half of a float.
struct __align__(2) bf16 {
    u16 bits;
};

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }
__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fffffffu); }

__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float to_float(float x) { return x; }

/// Rounds to nearest, ties to even; NaN gives 0x7fff.
__device__ __forceinline__ bf16 to_bf16(float x) {
#ifdef CPU_CUDA
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#else
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#endif
}

/// Two numbers in a register, the first in the lower half, as mma takes them.
__device__ __forceinline__ u32 pack(float low, float high) {
#ifdef CPU_CUDA
    return u32(to_bf16(high).bits) << 16 | to_bf16(low).bits;
#else
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

__device__ __forceinline__ float low_half(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return to_bf16(x);
}

__device__ __forceinline__ int lane_id() { return int(threadIdx.x) % WARP_LANES; }
__device__ __forceinline__ int warp_id() { return int(threadIdx.x) / WARP_LANES; }
/// `x`, of which the compiler knows no more than that: what depends on it is not computed ahead of a loop.
__device__ __forceinline__ int opaque(int x) {
#ifndef CPU_CUDA
    asm volatile("" : "+r"(x));
#endif
    return x;
}

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Additions that a compiler may not fuse with a product before them: lanes would differ in the last bit.
__device__ __forceinline__ float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ u64 plus(u64 a, u64 b) { return a + b; }

/// The sum over a warp, the same in all lanes: a butterfly, so its order is fixed.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
    for (int with = WARP_LANES / 2; with > 0; with /= 2) x = plus(x, __shfl_xor_sync(ALL_LANES, x, with));
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int with = WARP_LANES / 2; with > 0; with /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, with));
    return x;
}

/// The sum over a block of WARPS warps, the same in all threads: warps in order.
template <int WARPS, class T>
__device__ __forceinline__ T block_sum(T x) {
    __shared__ T sums[WARPS];
    x = warp_sum(x);
    if (lane_id() == 0) sums[warp_id()] = x;
    __syncthreads();
    T sum = sums[0];
    for (int w = 1; w < WARPS; w++) sum = plus(sum, sums[w]);
    // The next sum may not overwrite what some thread has yet to read.
    __syncthreads();
    return sum;
}
