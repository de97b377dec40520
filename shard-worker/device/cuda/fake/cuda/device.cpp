// Devices and their primary contexts.
#include <cstdio>
#include <cstring>

#include "capture.h"
#include "context.h"
#include "../handles.h"
#include "limits.h"
#include "memory.h"

using namespace fake;

namespace {

/// The primary context of each device, and how often it is retained.
struct Primary {
    std::shared_ptr<Context> context;
    unsigned retained = 0;
};

struct Primaries {
    std::mutex mutex;
    std::map<int, Primary> of;
};

std::atomic<bool> initialised{false};

/// Memory that is left when the process ends belongs to contexts that nobody released.
void tell_what_is_left();

Primaries& primaries() {
    static auto& all = *[] {
        atexit(tell_what_is_left);
        return new Primaries;
    }();
    return all;
}

void tell_what_is_left() {
    std::lock_guard guard(primaries().mutex);
    for (auto& [ordinal, primary] : primaries().of)
        if (primary.context && primary.context->switches.tell_leaks) release_all(*primary.context);
}

CUresult check(CUdevice device) {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    return device < 0 || device >= device_count() ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

/// Numbers are those of CUdevice_attribute.
int attribute_value(int attribute, CUdevice device, const Switches& switches) {
    switch (attribute) {
        case 1:    // MAX_THREADS_PER_BLOCK
        case 2:    // MAX_BLOCK_DIM_X
        case 3:    // MAX_BLOCK_DIM_Y
            return MAX_BLOCK;
        case 4:    // MAX_BLOCK_DIM_Z
            return MAX_BLOCK_Z;
        case 5:    // MAX_GRID_DIM_X
            return MAX_GRID_X;
        case 6:    // MAX_GRID_DIM_Y
        case 7:    // MAX_GRID_DIM_Z
            return MAX_GRID_YZ;
        case 8:    // MAX_SHARED_MEMORY_PER_BLOCK
            return SHARED_BYTES;
        case 10:   // WARP_SIZE
            return WARP_SIZE;
        case 12:   // MAX_REGISTERS_PER_BLOCK
        case 82:   // MAX_REGISTERS_PER_MULTIPROCESSOR
            return REGISTERS;
        case 16:   // MULTIPROCESSOR_COUNT
            return MULTIPROCESSORS;
        case 33:   // PCI_BUS_ID
            return device + 1;
        case 38:   // L2_CACHE_SIZE
            return L2_BYTES;
        case 39:   // MAX_THREADS_PER_MULTIPROCESSOR
            return MAX_THREADS_OF_MULTIPROCESSOR;
        case 75:   // COMPUTE_CAPABILITY_MAJOR
            return switches.major;
        case 76:   // COMPUTE_CAPABILITY_MINOR
            return switches.minor;
        case 81:   // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            return SHARED_BYTES_OF_MULTIPROCESSOR;
        case 97:   // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            return SHARED_BYTES_OPTIN;
        case 106:  // MAX_BLOCKS_PER_MULTIPROCESSOR
            return MAX_BLOCKS_OF_MULTIPROCESSOR;
        case 111:  // RESERVED_SHARED_MEMORY_PER_BLOCK
            return SHARED_BYTES_RESERVED;
        case 15:   // GPU_OVERLAP
        case 19:   // CAN_MAP_HOST_MEMORY
        case 31:   // CONCURRENT_KERNELS
        case 41:   // UNIFIED_ADDRESSING
        case 99:   // HOST_REGISTER_SUPPORTED
        case 115:  // MEMORY_POOLS_SUPPORTED
            return 1;
        default:
            return 0;
    }
}

}  // namespace

API CUresult cuInit(unsigned flags) {
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (device_count() == 0) return CUDA_ERROR_NO_DEVICE;
    initialised = true;
    return CUDA_SUCCESS;
}

API CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetCount(int* count) {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    *count = device_count();
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    if (CUresult error = check(ordinal)) return error;
    *device = ordinal;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
    if (CUresult error = check(device)) return error;
    snprintf(name, size_t(length), "Fake GPU on the CPU");
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
    if (CUresult error = check(device)) return error;
    memcpy(uuid->bytes, "tessera-fake-gpu", 16);
    uuid->bytes[15] = static_cast<unsigned char>(device);
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
    if (CUresult error = check(device)) return error;
    snprintf(text, size_t(length), "0000:%02x:00.0", device + 1);
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
    if (CUresult error = check(device)) return error;
    *value = attribute_value(attribute, device, Switches::read());
    return CUDA_SUCCESS;
}

API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    if (CUresult error = check(device)) return error;
    *bytes = Switches::read().memory;
    return CUDA_SUCCESS;
}

API CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
    if (CUresult error = check(device)) return error;
    if (CUresult error = check(peer)) return error;
    *can = device != peer;
    return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    if (CUresult error = check(device)) return error;
    std::lock_guard guard(primaries().mutex);
    Primary& primary = primaries().of[device];
    if (!primary.context) {
        primary.context = Context::create(device);
        if (!primary.context) return CUDA_ERROR_DEVICE_UNAVAILABLE;
        handles<Context>().add<CUcontext>(primary.context);
    }
    primary.retained++;
    *context = reinterpret_cast<CUcontext>(primary.context.get());
    return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    if (CUresult error = check(device)) return error;
    std::shared_ptr<Context> ended;
    {
        std::lock_guard guard(primaries().mutex);
        Primary& primary = primaries().of[device];
        if (!primary.retained) return CUDA_ERROR_INVALID_CONTEXT;
        if (--primary.retained == 0) ended = std::move(primary.context);
    }
    if (!ended) return CUDA_SUCCESS;
    abandon_captures(*ended);
    if (!ended->error()) ended->synchronize();
    release_all(*ended);
    handles<Context>().take(ended.get());
    if (current_context() == ended) set_current_context(nullptr);
    return CUDA_SUCCESS;
}

API CUresult cuCtxSetCurrent(CUcontext handle) {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    auto context = handles<Context>().find(handle);
    if (handle && !context) return CUDA_ERROR_INVALID_CONTEXT;
    set_current_context(context);
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetCurrent(CUcontext* handle) {
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    *handle = reinterpret_cast<CUcontext>(current_context().get());
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetDevice(CUdevice* device) {
    return in_context([&](Context& context) {
        *device = context.ordinal;
        return CUDA_SUCCESS;
    });
}

API CUresult cuCtxSynchronize() {
    CUresult result = in_context([](Context& context) {
        if (CUresult error = refuse_wait(context)) return error;
        context.synchronize();
        return CUDA_SUCCESS;
    });
    return result ? result : in_context([](Context&) { return CUDA_SUCCESS; });
}

API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return in_context([&](Context&) {
        *least = 0, *greatest = -5;
        return CUDA_SUCCESS;
    });
}

API CUresult cuCtxSetFlags(unsigned) {
    return in_context([](Context&) { return CUDA_SUCCESS; });
}

API CUresult cuCtxEnablePeerAccess(CUcontext, unsigned) {
    return in_context([](Context&) { return CUDA_SUCCESS; });
}
