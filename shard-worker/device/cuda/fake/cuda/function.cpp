// What a function is and may be raised to, and how many of its blocks fit.
#include <algorithm>

#include "../handles.h"
#include "module.h"

using namespace fake;

namespace {

constexpr int MAX_THREADS_PER_BLOCK = 0, NUM_REGS = 4, PTX_VERSION = 5, BINARY_VERSION = 6, MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
              PREFERRED_SHARED_MEMORY_CARVEOUT = 9;

/// How many registers a thread has is not known here; this many let every block be launched.
constexpr int REGISTERS_OF_THREAD = 64;

int blocks_of_multiprocessor(int block, size_t shared_bytes, const Limits& limits) {
    if (block <= 0 || unsigned(block) > MAX_BLOCK) return 0;
    unsigned threads = (unsigned(block) + WARP_SIZE - 1) / WARP_SIZE * WARP_SIZE;
    size_t by_threads = limits.threads_of_multiprocessor / threads;
    size_t by_registers = REGISTERS / (threads * REGISTERS_OF_THREAD);
    size_t by_shared = limits.shared_of_multiprocessor / (shared_bytes + SHARED_BYTES_RESERVED);
    return int(std::min({by_threads, by_registers, by_shared, size_t(limits.blocks_of_multiprocessor)}));
}

template <class Body>
CUresult with_function(CUfunction handle, Body body) {
    return in_context([&](Context& context) {
        auto function = handles<Function>().find(handle);
        return function ? body(*function, context.switches.limits) : CUDA_ERROR_INVALID_HANDLE;
    });
}

}  // namespace

API CUresult cuFuncGetAttribute(int* value, int attribute, CUfunction handle) {
    return with_function(handle, [&](Function& function, const Limits& limits) {
        *value = 0;
        if (attribute == MAX_THREADS_PER_BLOCK) *value = MAX_BLOCK;
        if (attribute == NUM_REGS) *value = REGISTERS_OF_THREAD;
        if (attribute == PTX_VERSION) *value = function.ptx_version;
        if (attribute == BINARY_VERSION) *value = limits.major * 10 + limits.minor;
        if (attribute == MAX_DYNAMIC_SHARED_SIZE_BYTES) *value = function.max_shared;
        return CUDA_SUCCESS;
    });
}

API CUresult cuFuncSetAttribute(CUfunction handle, int attribute, int value) {
    return with_function(handle, [&](Function& function, const Limits& limits) {
        if (attribute == PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_SUCCESS;
        if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_NOT_SUPPORTED;
        if (value < 0 || size_t(value) > limits.shared_of_block()) return CUDA_ERROR_INVALID_VALUE;
        function.max_shared = value;
        return CUDA_SUCCESS;
    });
}

API CUresult cuFuncSetCacheConfig(CUfunction handle, int) {
    return with_function(handle, [](Function&, const Limits&) { return CUDA_SUCCESS; });
}

API CUresult cuFuncGetName(const char** name, CUfunction handle) {
    return with_function(handle, [&](Function& function, const Limits&) {
        *name = function.kernel.name;
        return CUDA_SUCCESS;
    });
}

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle, int block, size_t shared_bytes) {
    return with_function(handle, [&](Function&, const Limits& limits) {
        *blocks = blocks_of_multiprocessor(block, shared_bytes, limits);
        return CUDA_SUCCESS;
    });
}

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction handle, int block, size_t shared_bytes,
                                                                  unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, handle, block, shared_bytes);
}

API CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, CUfunction handle, int blocks, int) {
    return with_function(handle, [&](Function&, const Limits& limits) {
        if (blocks <= 0) return CUDA_ERROR_INVALID_VALUE;
        *bytes = std::min(limits.shared_of_block(), limits.shared_of_multiprocessor / size_t(blocks) - SHARED_BYTES_RESERVED);
        return CUDA_SUCCESS;
    });
}
