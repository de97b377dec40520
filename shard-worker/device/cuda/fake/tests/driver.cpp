// Devices, memory, copies, kernels, events.
#include <dlfcn.h>

#include <cstring>

#include "facts.h"

using namespace test;

namespace {

void devices() {
    fact("FAKE_CUDA_DEVICES says how many devices there are", [] {
        int count;
        setenv("FAKE_CUDA_DEVICES", "3", 1);
        OK(cuInit(0));
        OK(cuDeviceGetCount(&count));
        CUdevice device;
        THAT(count == 3);
        OK(cuDeviceGet(&device, 2));
        GIVES(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, 3));
        unsetenv("FAKE_CUDA_DEVICES");
    });
    fact("a machine without devices can't be initialised", [] {
        setenv("FAKE_CUDA_DEVICES", "0", 1);
        GIVES(CUDA_ERROR_NO_DEVICE, cuInit(0));
        unsetenv("FAKE_CUDA_DEVICES");
    });
    fact("it looks like an H100", [] {
        Life life;
        auto attribute = [](int number) {
            int value;
            OK(cuDeviceGetAttribute(&value, number, 0));
            return value;
        };
        THAT(attribute(75) == 9 && attribute(76) == 0 && attribute(16) == 132 && attribute(10) == 32 &&
             attribute(97) == 227 * 1024);
    });
    fact("FAKE_CUDA_CAPABILITY makes it another, with what that one allows", [] {
        struct Other {
            const char* capability;
            int major, minor, processors, shared;
        };
        for (Other other : {Other{"8.0", 8, 0, 108, 163}, {"8.9", 8, 9, 142, 99}, {"9.0", 9, 0, 132, 227}, {"12.0", 12, 0, 170, 99}}) {
            Life life{{"FAKE_CUDA_CAPABILITY", other.capability}};
            int major, minor, processors, shared;
            OK(cuDeviceGetAttribute(&major, 75, 0));
            OK(cuDeviceGetAttribute(&minor, 76, 0));
            OK(cuDeviceGetAttribute(&processors, 16, 0));
            OK(cuDeviceGetAttribute(&shared, 97, 0));
            THAT(major == other.major && minor == other.minor && processors == other.processors && shared == other.shared * 1024);
            CUfunction function = life.function("gemm_wide_w");
            OK(cuFuncSetAttribute(function, 8, shared));
            GIVES(CUDA_ERROR_INVALID_VALUE, cuFuncSetAttribute(function, 8, shared + 1));
        }
    });
    fact("an image is for the devices that it was made for", [] {
        auto loads = [](const char* capability, const char* image) {
            Life life{{"FAKE_CUDA_CAPABILITY", capability}};
            CUmodule module;
            CUresult result = cuModuleLoadData(&module, image);
            THAT(result == CUDA_SUCCESS || result == CUDA_ERROR_NO_BINARY_FOR_GPU);
            return result == CUDA_SUCCESS;
        };
        const char *cubin80 = "\x7f" "ELF sm_80", *cubin89 = "\x7f" "ELF sm_89", *cubin90a = "\x7f" "ELF sm_90a", *ptx80 = ".version 8.7\n.target sm_80\n";
        THAT(loads("8.0", cubin80) && loads("8.9", cubin80) && !loads("9.0", cubin80) && !loads("12.0", cubin80));
        THAT(!loads("8.0", cubin89) && !loads("8.6", cubin89) && loads("8.9", cubin89));
        THAT(loads("9.0", cubin90a) && !loads("8.9", cubin90a) && !loads("12.0", cubin90a));
        THAT(loads("8.0", ptx80) && loads("12.0", ptx80) && !loads("8.0", ".version 8.7\n.target sm_90\n"));
    });
    fact("calls without a context are refused", [] {
        OK(cuInit(0));
        OK(cuCtxSetCurrent(nullptr));
        CUdeviceptr address;
        GIVES(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc_v2(&address, 16));
    });
    fact("every name that cudarc tries first opens the library of the right SONAME", [] {
        for (auto [plain, soname] : {std::pair("libcuda.so", "libcuda.so.1"), std::pair("libcublasLt.so", "libcublasLt.so.13"),
                                     std::pair("libnccl.so", "libnccl.so.2")}) {
            void* opened = dlopen(plain, RTLD_LAZY);
            THAT(opened && opened == dlopen(soname, RTLD_LAZY | RTLD_NOLOAD));
        }
    });
}

void memory() {
    fact("cuMemGetInfo is true before, while and after memory is allocated", [] {
        Life life{{"FAKE_CUDA_MEMORY", "64M"}};
        size_t free, total;
        OK(cuMemGetInfo_v2(&free, &total));
        THAT(free == size_t(64) << 20 && total == free);
        CUdeviceptr address = life.memory(1 << 20);
        OK(cuMemGetInfo_v2(&free, &total));
        THAT(free == size_t(63) << 20);
        OK(cuMemFree_v2(address));
        OK(cuMemGetInfo_v2(&free, &total));
        THAT(free == size_t(64) << 20);
    });
    fact("more than the device has is out of memory, and harms nothing", [] {
        Life life{{"FAKE_CUDA_MEMORY", "1M"}};
        CUdeviceptr first = life.memory(768 << 10), second;
        GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&second, 512 << 10));
        GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocAsync(&second, 512 << 10, life.stream()));
        OK(cuMemFree_v2(first));
        OK(cuMemAlloc_v2(&second, 512 << 10));
    });
    fact("FAKE_CUDA_OOM_AFTER bounds what is ever allocated", [] {
        Life life{{"FAKE_CUDA_OOM_AFTER", "1M"}};
        OK(cuMemFree_v2(life.memory(768 << 10)));
        CUdeviceptr address;
        GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&address, 512 << 10));
    });
    fact("memory is 0xff when it is new, and after it is freed", [] {
        Life life;
        CUdeviceptr address = life.memory(1000);
        THAT(life.download<unsigned char>(address, 1000) == std::vector<unsigned char>(1000, 0xff));
        OK(cuMemsetD8Async(address, 1, 1000, nullptr));
        OK(cuMemFree_v2(address));
        // It stays poisoned for a while, though it is nobody's any more.
        THAT(*reinterpret_cast<unsigned char*>(address) == 0xff);
    });
    fact("nothing is freed twice, and nothing that was not allocated", [] {
        Life life;
        CUdeviceptr address = life.memory(100);
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(address + 8));
        OK(cuMemFree_v2(address));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(address));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(reinterpret_cast<void*>(address)));
    });
    fact("what is left is told when the process ends, and can end it", [] {
        std::string told;
        auto leak = [](const char* how) {
            setenv("FAKE_CUDA_LEAKS", how, 1);
            Life* life = new Life;
            life->memory(1000);
            return 0;
        };
        THAT(in_child([&] { return leak("1"); }, &told) == 0 &&
             told.find("1 allocations of 1000 bytes were not freed") != told.npos);
        THAT(in_child([&] { return leak("fail"); }, &told) == 86);
    });
    fact("a switch that can't be understood ends the process", [] {
        std::string told;
        THAT(in_child([] { return setenv("FAKE_CUDA_MEMORY", "lots", 1), Life(), 0; }, &told) == 2 &&
             told.find("FAKE_CUDA_MEMORY=lots") != told.npos);
    });
}

void copies() {
    fact("copies go there and back, pageable and pinned", [] {
        Life life;
        CUstream stream = life.stream();
        CUdeviceptr a = life.memory(4000), b = life.memory(4000);
        int* pinned = life.pinned<int>(1000);
        std::vector<int> there(1000), back(1000);
        for (int i = 0; i < 1000; i++) there[i] = i, pinned[i] = -i;
        OK(cuMemcpyHtoDAsync_v2(a, there.data(), 4000, stream));
        OK(cuMemcpyDtoDAsync_v2(b, a, 4000, stream));
        OK(cuMemcpyDtoHAsync_v2(back.data(), b, 4000, stream));
        THAT(back == there);
        OK(cuMemcpyHtoDAsync_v2(a, pinned, 4000, stream));
        OK(cuMemcpyDtoHAsync_v2(back.data(), a, 4000, stream));
        THAT(back[999] == -999);
        OK(cuMemFreeHost(pinned));
    });
    fact("a two-dimensional copy takes columns out of rows", [] {
        Life life;
        std::vector<int> matrix(6 * 8), out(4 * 3, 7);
        for (int i = 0; i < 48; i++) matrix[i] = i;
        CUdeviceptr device = life.upload(matrix);
        CUDA_MEMCPY2D c{};
        c.srcMemoryType = CU_MEMORYTYPE_DEVICE, c.srcDevice = device, c.srcPitch = 32, c.srcXInBytes = 8, c.srcY = 1;
        c.dstMemoryType = CU_MEMORYTYPE_HOST, c.dstHost = out.data(), c.dstPitch = 12;
        c.WidthInBytes = 12, c.Height = 4;
        OK(cuMemcpy2DAsync_v2(&c, nullptr));
        THAT((out == std::vector<int>{10, 11, 12, 18, 19, 20, 26, 27, 28, 34, 35, 36}));
        c.srcPitch = 8;
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy2DAsync_v2(&c, nullptr));
    });
    fact("copies beyond an allocation are refused", [] {
        Life life;
        std::vector<char> host(200);
        CUdeviceptr address = life.memory(100);
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(address, host.data(), 101));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2(host.data(), address + 1, 100));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD8Async(address, 0, 101, nullptr));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(CUdeviceptr(host.data()), host.data(), 1));
        OK(cuMemcpyHtoD_v2(address, host.data(), 100));
    });
    fact("fills set bytes and words", [] {
        Life life;
        CUdeviceptr address = life.memory(16);
        OK(cuMemsetD32Async(address, 0x01020304, 4, nullptr));
        OK(cuMemsetD8Async(address + 4, 9, 4, nullptr));
        THAT((life.download<unsigned>(address, 4) == std::vector<unsigned>{0x01020304, 0x09090909, 0x01020304, 0x01020304}));
    });
}

void kernels() {
    fact("a kernel is found by name, computes, and takes structs by value", [] {
        Life life;
        std::vector<float> x(100);
        for (int i = 0; i < 100; i++) x[i] = float(i);
        CUdeviceptr in = life.upload(x), out = life.memory(400);
        OK(scale(life.function("fake_scale"), nullptr, in, out, 100, 3));
        THAT(life.download<float>(out, 100)[99] == 297);
        struct {
            int first;
            double second;
        } pair{2, 0.5};
        void* arguments[] = {&pair, &out};
        OK(cuLaunchKernel(life.function("fake_pair"), 1, 1, 1, 1, 1, 1, 0, nullptr, arguments, nullptr));
        THAT(life.download<double>(out, 1)[0] == 2.5);
    });
    fact("an unknown kernel is not found, and junk is no image", [] {
        Life life;
        CUfunction function;
        CUmodule module;
        GIVES(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&function, life.module, "no_such_kernel"));
        GIVES(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadData(&module, "junk"));
        OK(cuModuleUnload(life.module));
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuModuleGetFunction(&function, life.module, "fake_scale"));
    });
    fact("shapes that a device refuses are refused", [] {
        Life life;
        CUfunction function = life.function("fake_scale");
        CUdeviceptr x = life.memory(4);
        int n = 0;
        float by = 1;
        void* arguments[] = {&x, &x, &n, &by};
        auto shape = [&](unsigned gx, unsigned gy, unsigned bx, unsigned by, unsigned bz) {
            return cuLaunchKernel(function, gx, gy, 1, bx, by, bz, 0, nullptr, arguments, nullptr);
        };
        GIVES(CUDA_ERROR_INVALID_VALUE, shape(1, 1, 1025, 1, 1));
        GIVES(CUDA_ERROR_INVALID_VALUE, shape(1, 1, 64, 17, 1));
        GIVES(CUDA_ERROR_INVALID_VALUE, shape(1, 1, 1, 1, 65));
        GIVES(CUDA_ERROR_INVALID_VALUE, shape(0, 1, 32, 1, 1));
        GIVES(CUDA_ERROR_INVALID_VALUE, shape(1, 65536, 32, 1, 1));
        OK(shape(1, 1, 1024, 1, 1));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
    });
    fact("more than 48 KiB of dynamic shared memory has to be asked for", [] {
        Life life;
        CUfunction sum = life.function("fake_block_sum");
        std::vector<int> ones(256, 1);
        CUdeviceptr x = life.upload(ones), out = life.memory(8);
        void* arguments[] = {&x, &out};
        auto with = [&](unsigned bytes) { return cuLaunchKernel(sum, 2, 1, 1, 128, 1, 1, bytes, nullptr, arguments, nullptr); };
        OK(with(48 * 1024));
        GIVES(CUDA_ERROR_INVALID_VALUE, with(48 * 1024 + 1));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuFuncSetAttribute(sum, 8, 227 * 1024 + 1));
        OK(cuFuncSetAttribute(sum, 8, 227 * 1024));
        OK(with(227 * 1024));
        THAT((life.download<int>(out, 2) == std::vector<int>{128, 128}));
    });
    fact("cuLaunchKernelEx takes hints, and refuses clusters and what it does not know", [] {
        Life life;
        CUdeviceptr x = life.upload(std::vector<float>{5}), out = life.memory(4);
        int n = 1;
        float by = 2;
        void* arguments[] = {&x, &out, &n, &by};
        CUlaunchAttribute attribute{};
        attribute.id = 8, attribute.value.number = 1;
        CUlaunchConfig config{1, 1, 1, 32, 1, 1, 0, nullptr, &attribute, 1};
        OK(cuLaunchKernelEx(&config, life.function("fake_scale"), arguments, nullptr));
        THAT(life.download<float>(out, 1)[0] == 10);
        attribute.id = 4, attribute.value.cluster = {2, 1, 1};
        GIVES(CUDA_ERROR_NOT_SUPPORTED, cuLaunchKernelEx(&config, life.function("fake_scale"), arguments, nullptr));
        attribute.id = 1000;
        GIVES(CUDA_ERROR_NOT_SUPPORTED, cuLaunchKernelEx(&config, life.function("fake_scale"), arguments, nullptr));
    });
    fact("a kernel that may begin before the one ahead has ended fails unless all its threads wait for it", [] {
        auto result = [](const char* image, int all, bool overlaps) {
            Life life;
            CUmodule module;
            CUfunction function;
            OK(cuModuleLoadData(&module, image));
            OK(cuModuleGetFunction(&function, module, "fake_copy_behind"));
            CUdeviceptr x = life.upload(std::vector<float>(64, 5)), out = life.memory(256);
            void* arguments[] = {&x, &out, &all};
            CUlaunchAttribute attribute{};
            attribute.id = 6, attribute.value.number = overlaps;
            CUlaunchConfig config{2, 1, 1, 32, 1, 1, 0, nullptr, &attribute, 1};
            CUresult launched = cuLaunchKernelEx(&config, function, arguments, nullptr), done = cuCtxSynchronize();
            return launched ? launched : done;
        };
        const char *waits = ".version 8.7\n.target sm_90\n", *cannot = ".version 8.7\n.target sm_80\n";
        THAT(result(waits, 1, true) == CUDA_SUCCESS && result(waits, 0, false) == CUDA_SUCCESS && result(cannot, 1, false) == CUDA_SUCCESS);
        THAT(result(waits, 0, true) == CUDA_ERROR_LAUNCH_FAILED && result(cannot, 1, true) == CUDA_ERROR_LAUNCH_FAILED);
    });
    fact("occupancy falls with threads and with shared memory", [] {
        Life life;
        CUfunction function = life.function("fake_scale");
        int few, many, none;
        OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&few, function, 1024, 0));
        OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&many, function, 64, 0));
        OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&none, function, 64, 229 * 1024));
        THAT(few == 1 && many == 16 && none == 0);
    });
}

void events() {
    fact("events tell what is done and how long it took", [] {
        Life life;
        CUstream stream = life.stream();
        CUevent start = life.event(), end = life.event(), untimed = life.event(2);
        float milliseconds;
        OK(cuEventQuery(start));
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime_v2(&milliseconds, start, end));
        OK(cuEventRecord(start, stream));
        OK(cuLaunchHostFunc(stream, [](void*) { usleep(5000); }, nullptr));
        OK(cuEventRecord(end, stream));
        OK(cuEventRecord(untimed, stream));
        OK(cuEventSynchronize(end));
        OK(cuEventElapsedTime_v2(&milliseconds, start, end));
        THAT(milliseconds >= 5);
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime_v2(&milliseconds, start, untimed));
        OK(cuEventDestroy_v2(start));
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventQuery(start));
    });
}

}  // namespace

int main() {
    devices();
    memory();
    copies();
    kernels();
    events();
    return summary();
}
