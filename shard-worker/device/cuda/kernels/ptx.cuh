// Instructions that CUDA C++ has no name for without a header. On the CPU, shim/warp.h has the same functions.
#ifndef CPU_CUDA

/// Dynamic shared memory of the launch as an array of T.
#define DYNAMIC_SHARED(T, name)                                        \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared)

/// d[16, 8] += a[16, 16] b[16, 8], bf16 in and f32 out. With g = lane / 4 and t = lane % 4, pairs from the lower half:
/// a = (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8); b = (2t, g), (2t + 8, g) of [k, n], so a column's pairs run
/// over k; d = (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// The compiler follows this cast, so that addresses are computed in 32 bits.
__device__ __forceinline__ unsigned shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }

/// Four 8x8 matrices of bf16 from shared memory; lane i brings the address of row i % 8 of matrix i / 8. r[m] of lane i
/// is the pair (i / 4, 2 (i % 4)) of matrix m.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// Begins a copy of 16 bytes; beyond the first `bytes` zeros are written. With 0 nothing is read, but the address must
/// still be a multiple of 16. The second cache gets the line's other bytes too, which are read soon.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, unsigned bytes = 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until all but the last N groups that this thread committed are there.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/// A kernel may be launched while the one ahead of it in the stream still runs (programmatic dependent launch, from sm_90 on). Every
/// kernel calls this before it touches what a kernel writes, on every way through it: it waits until the kernel ahead has
/// ended and what that wrote is there, and then lets the next be launched. So all kernels before the one ahead have ended,
/// too. What a kernel reads is for that reason never `const __restrict__`: the compiler would take it for constant from the
/// kernel's beginning on, and read it earlier. tools/sass.py proves both of the machine code.
__device__ __forceinline__ void wait_for_kernels_ahead() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// 2^x, within 2 units in the last place; 0 for -inf.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Reads a word that another device or the host writes; what its writer had written before is there for whoever this thread
/// meets from now on.
__device__ __forceinline__ unsigned long long load_acquire(const unsigned long long* p) {
    unsigned long long x;
    asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(x) : "l"(p) : "memory");
    return x;
}

/// Writes a word that another device or the host reads, behind all that this thread has written, or has met the writers of.
__device__ __forceinline__ void store_release(unsigned long long* p, unsigned long long x) {
    asm volatile("st.release.sys.u64 [%0], %1;" ::"l"(p), "l"(x) : "memory");
}

/// A clock that all blocks of a device share.
__device__ __forceinline__ unsigned long long nanoseconds() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}

/// Between two looks for what others write. Blocks of a device need no leave to go on.
__device__ __forceinline__ void let_others_go_on() {}

#endif
