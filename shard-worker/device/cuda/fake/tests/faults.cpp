// Faults: those that switches bring about, and those that kernels do.
#include "facts.h"

using namespace test;

namespace {

struct Scene : Life {
    using Life::Life;
    CUfunction f = function("fake_scale");
    CUdeviceptr x = upload(std::vector<float>{1}), y = memory(4);
    CUresult launch() { return scale(f, nullptr, x, y, 1, 2); }
};

void switches() {
    fact("FAKE_CUDA_FAIL: the Nth launch fails, every call after it, and a new context is well", [] {
        for (auto async : {"0", "1"}) {
            Scene scene{{"FAKE_CUDA_FAIL", "fake_scale:3:719"}, {"FAKE_CUDA_ASYNC", async}};
            OK(scene.launch());
            OK(scene.launch());
            OK(cuCtxSynchronize());
            OK(scene.launch());
            GIVES(CUDA_ERROR_LAUNCH_FAILED, cuCtxSynchronize());
            GIVES(CUDA_ERROR_LAUNCH_FAILED, scene.launch());
            CUdeviceptr address;
            GIVES(CUDA_ERROR_LAUNCH_FAILED, cuMemAlloc_v2(&address, 16));
            GIVES(CUDA_ERROR_LAUNCH_FAILED, cuMemFree_v2(scene.x));
        }
        Scene scene;
        OK(scene.launch());
        OK(cuCtxSynchronize());
    });
    fact("an error that breaks nothing is told by the launch alone", [] {
        Scene scene{{"FAKE_CUDA_FAIL", "fake_scale:2:701"}};
        OK(scene.launch());
        GIVES(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, scene.launch());
        OK(scene.launch());
        OK(cuCtxSynchronize());
    });
    fact("launches of graphs count", [] {
        Scene scene{{"FAKE_CUDA_FAIL", "fake_scale:2:700"}};
        CUstream stream = scene.stream();
        CUgraph graph;
        CUgraphExec executable;
        OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(scale(scene.f, stream, scene.x, scene.y, 1, 2));
        OK(cuStreamEndCapture(stream, &graph));
        OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
        OK(cuGraphLaunch(executable, stream));
        OK(cuStreamSynchronize(stream));
        OK(cuGraphLaunch(executable, stream));
        GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(stream));
    });
    fact("FAKE_CUDA_VANISH: a device that is gone stays away", [] {
        THAT(in_child([] {
                 {
                     Scene scene{{"FAKE_CUDA_VANISH", "2"}};
                     OK(scene.launch());
                     OK(scene.launch());
                     OK(cuCtxSynchronize());
                     OK(scene.launch());
                     GIVES(CUDA_ERROR_DEVICE_UNAVAILABLE, cuCtxSynchronize());
                     GIVES(CUDA_ERROR_DEVICE_UNAVAILABLE, scene.launch());
                     size_t free, total;
                     GIVES(CUDA_ERROR_DEVICE_UNAVAILABLE, cuMemGetInfo_v2(&free, &total));
                 }
                 CUcontext context;
                 GIVES(CUDA_ERROR_DEVICE_UNAVAILABLE, cuDevicePrimaryCtxRetain(&context, 0));
                 return 0;
             }) == 0);
    });
}

void kernels() {
    fact("an argument outside of every allocation is an illegal address", [] {
        Scene scene;
        float host = 1;
        std::string told;
        OK(scale(scene.f, nullptr, CUdeviceptr(&host), scene.y, 1, 2));
        GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    });
    fact("a kernel that writes beyond its memory is caught", [] {
        Scene scene;
        int n = 1;
        void* arguments[] = {&scene.y, &n};
        OK(cuLaunchKernel(scene.function("fake_overrun"), 1, 1, 1, 1, 1, 1, 0, nullptr, arguments, nullptr));
        GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    });
    fact("work behind a failure is dropped, and waits for it end", [] {
        Life life{{"FAKE_CUDA_FAIL", "fake_scale:1:716"}, {"FAKE_CUDA_ASYNC", "1"}};
        CUstream stream = life.stream();
        CUevent event = life.event();
        CUdeviceptr x = life.upload(std::vector<float>{1});
        int* pinned = life.pinned<int>(1);
        OK(scale(life.function("fake_scale"), stream, x, x, 1, 2));
        OK(cuMemcpyDtoHAsync_v2(pinned, x, 4, stream));
        OK(cuEventRecord(event, stream));
        GIVES(CUDA_ERROR_MISALIGNED_ADDRESS, cuEventSynchronize(event));
        THAT(*pinned == -1);
    });
}

}  // namespace

int main() {
    switches();
    kernels();
    return summary();
}
