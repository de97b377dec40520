// Devices, and what is asked of them before there is a context.
#include "device.h"

#include <atomic>
#include <cstdio>
#include <cstring>

#include "limits.h"

using namespace fake;

namespace {

std::atomic<bool> initialised{false};

/// Numbers are those of CUdevice_attribute.
int attribute_value(int attribute, CUdevice device, const Limits& limits) {
    switch (attribute) {
        case 1:  // MAX_THREADS_PER_BLOCK
        case 2:  // MAX_BLOCK_DIM_X
        case 3:  // MAX_BLOCK_DIM_Y
            return MAX_BLOCK;
        case 4:  // MAX_BLOCK_DIM_Z
            return MAX_BLOCK_Z;
        case 5:  // MAX_GRID_DIM_X
            return MAX_GRID_X;
        case 6:  // MAX_GRID_DIM_Y
        case 7:  // MAX_GRID_DIM_Z
            return MAX_GRID_YZ;
        case 8:  // MAX_SHARED_MEMORY_PER_BLOCK
            return SHARED_BYTES;
        case 10:  // WARP_SIZE
            return WARP_SIZE;
        case 12:  // MAX_REGISTERS_PER_BLOCK
        case 82:  // MAX_REGISTERS_PER_MULTIPROCESSOR
            return REGISTERS;
        case 16:  // MULTIPROCESSOR_COUNT
            return int(limits.multiprocessors);
        case 33:  // PCI_BUS_ID
            return device + 1;
        case 38:  // L2_CACHE_SIZE
            return L2_BYTES;
        case 39:  // MAX_THREADS_PER_MULTIPROCESSOR
            return int(limits.threads_of_multiprocessor);
        case 75:  // COMPUTE_CAPABILITY_MAJOR
            return limits.major;
        case 76:  // COMPUTE_CAPABILITY_MINOR
            return limits.minor;
        case 81:  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            return int(limits.shared_of_multiprocessor);
        case 97:  // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            return int(limits.shared_of_block());
        case 106:  // MAX_BLOCKS_PER_MULTIPROCESSOR
            return int(limits.blocks_of_multiprocessor);
        case 111:  // RESERVED_SHARED_MEMORY_PER_BLOCK
            return SHARED_BYTES_RESERVED;
        case 15:   // GPU_OVERLAP
        case 19:   // CAN_MAP_HOST_MEMORY
        case 31:   // CONCURRENT_KERNELS
        case 41:   // UNIFIED_ADDRESSING
        case 99:   // HOST_REGISTER_SUPPORTED
        case 115:  // MEMORY_POOLS_SUPPORTED
            return 1;
        default: return 0;
    }
}

}  // namespace

CUresult fake::check_initialised() { return initialised ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED; }

CUresult fake::check(CUdevice device) {
    if (CUresult error = check_initialised()) return error;
    return device < 0 || device >= device_count() ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

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
    if (CUresult error = check_initialised()) return error;
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
    *value = attribute_value(attribute, device, Switches::read().limits);
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
    *can = device != peer && has_peers();
    return CUDA_SUCCESS;
}
