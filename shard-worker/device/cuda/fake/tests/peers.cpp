// Memory that other devices and other processes reach.
#include <dirent.h>

#include <cstring>

#include "facts.h"

using namespace test;

namespace {

constexpr unsigned LAZY = 1;

size_t open_files() {
    size_t count = 0;
    DIR* files = opendir("/proc/self/fd");
    while (files && readdir(files)) count++;
    if (files) closedir(files);
    return count;
}

void handles() {
    fact("a process reads and writes what another has allocated", [] {
        Life life;
        CUdeviceptr address = life.upload<int>({1, 2, 3});
        CUipcMemHandle handle;
        OK(cuIpcGetMemHandle(&handle, address));
        int status = in_child([&] {
            CUdeviceptr there;
            int values[3], more = 7;
            OK(cuIpcOpenMemHandle_v2(&there, handle, LAZY));
            OK(cuMemcpyDtoH_v2(values, there, sizeof values));
            OK(cuMemcpyHtoD_v2(there + 4, &more, sizeof more));
            OK(cuIpcCloseMemHandle(there));
            GIVES(CUDA_ERROR_INVALID_VALUE, cuIpcCloseMemHandle(there));
            return values[0] == 1 && values[1] == 2 && values[2] == 3 ? 0 : 1;
        });
        THAT(status == 0);
        THAT((life.download<int>(address, 3) == std::vector{1, 7, 3}));
        THAT((life.download<int>(life.upload<int>({4}), 1) == std::vector{4}));
        OK(cuMemFree_v2(address));
    });
    fact("memory with a handle keeps its address and its guards", [] {
        Life life;
        CUdeviceptr x = life.upload<float>({1, 2}), out = life.memory(8);
        CUipcMemHandle handle, again;
        OK(cuIpcGetMemHandle(&handle, out));
        OK(cuIpcGetMemHandle(&again, out));
        THAT(!memcmp(&handle, &again, sizeof handle));
        CUstream stream = life.stream();
        OK(scale(life.function("fake_scale"), stream, x, out, 2, 3));
        OK(cuStreamSynchronize(stream));
        THAT((life.download<float>(out, 2) == std::vector<float>{3, 6}));
        int status = in_child([&] {
            int n = 2;
            void* arguments[] = {&out, &n};
            OK(cuLaunchKernel(life.function("fake_overrun"), 1, 1, 1, 1, 1, 1, 0, stream, arguments, nullptr));
            return cuStreamSynchronize(stream) == CUDA_ERROR_ILLEGAL_ADDRESS ? 0 : 1;
        });
        THAT(status == 0);
    });
    fact("a handle is for other processes, and for memory that is there", [] {
        Life life;
        CUdeviceptr address = life.memory(100), there, pooled;
        CUipcMemHandle handle, other{};
        OK(cuIpcGetMemHandle(&handle, address));
        GIVES(CUDA_ERROR_INVALID_CONTEXT, cuIpcOpenMemHandle_v2(&there, handle, LAZY));
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenMemHandle_v2(&there, other, LAZY));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&other, address + 16));
        OK(cuMemAllocAsync(&pooled, 100, life.stream()));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&other, pooled));
        OK(cuMemFree_v2(address));
        THAT(in_child([&] { return cuIpcOpenMemHandle_v2(&there, handle, LAZY) == CUDA_ERROR_INVALID_HANDLE ? 0 : 1; }) == 0);
    });
    fact("memory with a handle leaves no file behind", [] {
        size_t before = open_files();
        Life life;
        for (int i = 0; i < 5; i++) {
            CUdeviceptr address = life.memory(100000);
            CUipcMemHandle handle;
            OK(cuIpcGetMemHandle(&handle, address));
            THAT(open_files() == before + 1);
            OK(cuMemFree_v2(address));
        }
        THAT(open_files() == before);
    });
}

void access() {
    fact("devices of a process reach each other once that is asked for", [] {
        Life life{{"FAKE_CUDA_DEVICES", "2"}};
        CUcontext other;
        OK(cuDevicePrimaryCtxRetain(&other, 1));
        int can;
        OK(cuDeviceCanAccessPeer(&can, 0, 1));
        THAT(can);
        GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxEnablePeerAccess(life.context, 0));
        OK(cuCtxEnablePeerAccess(other, 0));
        GIVES(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, cuCtxEnablePeerAccess(other, 0));
        OK(cuDevicePrimaryCtxRelease_v2(1));
    });
    fact("FAKE_CUDA_PEERS=0 keeps them apart", [] {
        Life life{{"FAKE_CUDA_DEVICES", "2"}, {"FAKE_CUDA_PEERS", "0"}};
        CUcontext other;
        OK(cuDevicePrimaryCtxRetain(&other, 1));
        int can;
        OK(cuDeviceCanAccessPeer(&can, 0, 1));
        THAT(!can);
        GIVES(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, cuCtxEnablePeerAccess(other, 0));
        CUipcMemHandle handle;
        CUdeviceptr there;
        OK(cuIpcGetMemHandle(&handle, life.memory(100)));
        THAT(in_child([&] { return cuIpcOpenMemHandle_v2(&there, handle, LAZY) == CUDA_ERROR_PEER_ACCESS_UNSUPPORTED ? 0 : 1; }) == 0);
        OK(cuDevicePrimaryCtxRelease_v2(1));
    });
}

}  // namespace

int main() {
    handles();
    access();
    return summary();
}
