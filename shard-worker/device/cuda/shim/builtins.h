// What CUDA C++ has without a header: vector types, conversions, rounding arithmetic, atomics.
#pragma once

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cpucuda {
template <class To, class From>
To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
}  // namespace cpucuda

inline unsigned __float_as_uint(float x) { return cpucuda::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return cpucuda::bits<float>(x); }

// Compiled with -ffp-contract=off these round as they say.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

inline int __float2int_rn(float x) { return int(rintf(x)); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(unsigned x) { return __builtin_ffs(int(x)); }
/// Four of the eight bytes of y:x, as the digits of s say.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
    const unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= unsigned(bytes >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
    return out;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }

template <class T>
T __ldg(const T* p) {
    return *p;
}

template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}

// Threads take turns, so plain arithmetic is atomic. There is none on floats: their order would show in the sum.
namespace cpucuda {
using Wide = unsigned long long;

template <class T, class F>
T atomically(T* p, F f) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    T old = *p;
    *p = f(old);
    return old;
}
}  // namespace cpucuda

#define CPU_CUDA_ATOMICS(T)                                                                              \
    inline T atomicAdd(T* p, T x) { return cpucuda::atomically(p, [=](T old) { return static_cast<T>(old + x); }); }  \
    inline T atomicMax(T* p, T x) { return cpucuda::atomically(p, [=](T old) { return max(old, x); }); } \
    inline T atomicMin(T* p, T x) { return cpucuda::atomically(p, [=](T old) { return min(old, x); }); } \
    inline T atomicOr(T* p, T x) { return cpucuda::atomically(p, [=](T old) { return old | x; }); }      \
    inline T atomicAnd(T* p, T x) { return cpucuda::atomically(p, [=](T old) { return old & x; }); }     \
    inline T atomicExch(T* p, T x) { return cpucuda::atomically(p, [=](T) { return x; }); }              \
    inline T atomicCAS(T* p, T wanted, T x) {                                                            \
        return cpucuda::atomically(p, [=](T old) { return old == wanted ? x : old; });                   \
    }
CPU_CUDA_ATOMICS(int)
CPU_CUDA_ATOMICS(unsigned)
CPU_CUDA_ATOMICS(cpucuda::Wide)
#undef CPU_CUDA_ATOMICS
