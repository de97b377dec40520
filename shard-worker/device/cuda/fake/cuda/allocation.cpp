// Allocation: device memory at once or in the order of a stream, pinned host memory, and what is known of a pointer.
#include "capture.h"
#include "../handles.h"
#include "memory.h"
#include "streams.h"

using namespace fake;

namespace {

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

CUresult allocate(Context& context, CUdeviceptr* address, size_t bytes, bool pooled) {
    char* base = allocate_device(context, bytes, pooled);
    if (!base) return CUDA_ERROR_OUT_OF_MEMORY;
    *address = reinterpret_cast<CUdeviceptr>(base);
    return CUDA_SUCCESS;
}

}  // namespace

API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    return in_context([&](Context& context) {
        if (!address || !bytes) return CUDA_ERROR_INVALID_VALUE;
        if (CUresult error = refuse_unsafe()) return error;
        return allocate(context, address, bytes, false);
    });
}

/// Memory nodes of graphs don't exist here: nothing can be allocated by a captured stream.
API CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream handle) {
    return in_context([&](Context& context) {
        auto stream = find_stream(context, handle);
        if (!address) return CUDA_ERROR_INVALID_VALUE;
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (capture_status(*stream) != CU_STREAM_CAPTURE_STATUS_NONE) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        return allocate(context, address, bytes, true);
    });
}

API CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool, CUstream stream) {
    return cuMemAllocAsync(address, bytes, stream);
}

/// Memory of cuMemAlloc may be in use: the call waits for the device. What came from cuMemAllocAsync it frees at once.
API CUresult cuMemFree_v2(CUdeviceptr address) {
    CUresult state = in_context([&](Context& context) {
        if (CUresult error = refuse_unsafe()) return error;
        auto allocation = allocation_of(pointer(address));
        if (allocation && !allocation->pooled) context.synchronize();
        return CUDA_SUCCESS;
    });
    // A context that failed gives its memory back all the same, as the end of its process would.
    if (state && !is_sticky(state)) return state;
    if (!address) return state;
    CUresult result = release(pointer(address), Allocation::Device);
    return state ? state : result;
}

API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
    CUresult state = in_context([&](Context& context) {
        auto stream = find_stream(context, handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (!address) return CUDA_SUCCESS;
        auto allocation = allocation_of(pointer(address));
        if (!allocation || allocation->base != pointer(address) || allocation->kind != Allocation::Device)
            return CUDA_ERROR_INVALID_VALUE;
        // Only what a graph has allocated may be freed by one.
        if (capture_status(*stream) != CU_STREAM_CAPTURE_STATUS_NONE) return CUDA_ERROR_INVALID_VALUE;
        return submit(*stream, {[=] { return release(pointer(address), Allocation::Device); }});
    });
    if (is_sticky(state)) release(pointer(address), Allocation::Device);
    return state;
}

API CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    return in_context([&](Context& context) {
        if (!address) return CUDA_ERROR_INVALID_VALUE;
        if (CUresult error = refuse_unsafe()) return error;
        *address = allocate_pinned(context, bytes);
        return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    });
}

API CUresult cuMemAllocHost_v2(void** address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }

API CUresult cuMemFreeHost(void* address) {
    CUresult state = in_context([&](Context& context) {
        if (CUresult error = refuse_unsafe()) return error;
        context.synchronize();
        return CUDA_SUCCESS;
    });
    if (state && !is_sticky(state)) return state;
    CUresult result = release(address, Allocation::Pinned);
    return state ? state : result;
}

API CUresult cuMemHostRegister_v2(void* address, size_t bytes, unsigned) {
    return in_context([&](Context& context) {
        if (!address || !bytes) return CUDA_ERROR_INVALID_VALUE;
        return register_host(context, address, bytes);
    });
}

API CUresult cuMemHostUnregister(void* address) {
    return in_context([&](Context& context) {
        context.synchronize();
        return unregister_host(address);
    });
}

API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* device, void* host, unsigned) {
    return in_context([&](Context&) {
        if (!device || !is_pinned(host)) return CUDA_ERROR_INVALID_VALUE;
        *device = reinterpret_cast<CUdeviceptr>(host);
        return CUDA_SUCCESS;
    });
}

API CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    return in_context([&](Context& context) {
        if (!free_bytes || !total) return CUDA_ERROR_INVALID_VALUE;
        *free_bytes = context.free_bytes();
        *total = context.switches.memory;
        return CUDA_SUCCESS;
    });
}

API CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
    return in_context([&](Context&) {
        auto allocation = allocation_of(pointer(address));
        if (!allocation || allocation->kind != Allocation::Device) return CUDA_ERROR_NOT_FOUND;
        if (base) *base = reinterpret_cast<CUdeviceptr>(allocation->base);
        if (bytes) *bytes = allocation->bytes;
        return CUDA_SUCCESS;
    });
}

API CUresult cuPointerGetAttribute(void* value, int attribute, CUdeviceptr address) {
    constexpr int MEMORY_TYPE = 2, DEVICE_ORDINAL = 9;
    auto allocation = allocation_of(pointer(address));
    if (!allocation || !value) return CUDA_ERROR_INVALID_VALUE;
    auto context = allocation->context.lock();
    if (attribute == MEMORY_TYPE)
        *static_cast<unsigned*>(value) = allocation->kind == Allocation::Device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
    else if (attribute == DEVICE_ORDINAL)
        *static_cast<int*>(value) = context ? context->ordinal : 0;
    else
        return CUDA_ERROR_NOT_SUPPORTED;
    return CUDA_SUCCESS;
}
