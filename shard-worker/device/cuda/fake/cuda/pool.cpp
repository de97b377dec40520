// The default memory pool of a device. Freed memory goes back to the device at once, so its attributes are only kept.
#include <map>

#include "context.h"

using namespace fake;

namespace {

constexpr int RELEASE_THRESHOLD = 4, RESERVED_MEM_CURRENT = 5, USED_MEM_HIGH = 8;

std::mutex mutex;
std::map<std::pair<CUmemoryPool, int>, uint64_t>& values = *new std::map<std::pair<CUmemoryPool, int>, uint64_t>;

}  // namespace

API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device) {
    *pool = reinterpret_cast<CUmemoryPool>(uintptr_t(0x1000) + unsigned(device));
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice device) { return cuDeviceGetDefaultMemPool(pool, device); }

API CUresult cuMemPoolSetAttribute(CUmemoryPool pool, int attribute, void* value) {
    // The first three are flags of 32 bits, the others sizes.
    uint64_t number = attribute < RELEASE_THRESHOLD ? *static_cast<int*>(value) : *static_cast<uint64_t*>(value);
    std::lock_guard guard(mutex);
    values[{pool, attribute}] = number;
    return CUDA_SUCCESS;
}

API CUresult cuMemPoolGetAttribute(CUmemoryPool pool, int attribute, void* value) {
    return in_context([&](Context& context) {
        if (attribute >= RESERVED_MEM_CURRENT && attribute <= USED_MEM_HIGH) {
            *static_cast<uint64_t*>(value) = context.switches.memory - context.free_bytes();
            return CUDA_SUCCESS;
        }
        std::lock_guard guard(mutex);
        if (attribute < RELEASE_THRESHOLD)
            *static_cast<int*>(value) = int(values[{pool, attribute}]);
        else
            *static_cast<uint64_t*>(value) = values[{pool, attribute}];
        return CUDA_SUCCESS;
    });
}

API CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) { return CUDA_SUCCESS; }
