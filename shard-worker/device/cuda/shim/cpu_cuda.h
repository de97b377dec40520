// CUDA on the CPU: kernels written for nvcc and NVRTC compile with g++ after this header, and run by
// `cpucuda::launch(grid, block, dynamic_bytes, [&] { kernel(arguments); })`.
//
// Compile with -ffp-contract=off (explicit operations round as they say) and -fno-strict-aliasing (kernels load numbers as
// 16-byte vectors).
//
// It is for the arithmetic and the meeting of threads, not for speed. Not covered: wgmma, TMA, memory ordering between
// blocks, and the last bit of approximate instructions.
//
// Include kernels inside an unnamed namespace: `__shared__` names a section of the program, and a compiler puts
// variables of templates with external linkage into sections of their own.
#pragma once

#include <cmath>

#include "machine.h"

#define CPU_CUDA 1

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((section("cpu_cuda_shared")))

#define threadIdx (cpucuda::machine.current->index)
#define blockIdx (cpucuda::machine.block_index)
#define blockDim (cpucuda::machine.block)
#define gridDim (cpucuda::machine.grid)
#define __syncthreads() cpucuda::block_barrier(__FILE__, __LINE__)
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(cpucuda::machine.dynamic_shared())

#include "builtins.h"
#include "warp.h"
