// Captures and graphs: what they record, and what CUDA forbids meanwhile.
#include <thread>

#include "facts.h"

using namespace test;

namespace {

constexpr auto GLOBAL = CU_STREAM_CAPTURE_MODE_GLOBAL;
constexpr auto THREAD_LOCAL = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
constexpr auto RELAXED = CU_STREAM_CAPTURE_MODE_RELAXED;

/// A device with a stream, an input and an output of four numbers, and a kernel between them.
struct Scene : Life {
    CUstream s = stream();
    CUfunction f = function("fake_scale");
    CUdeviceptr x = upload(std::vector<float>{1, 2, 3, 4}), y = upload(std::vector<float>{0, 0, 0, 0});

    CUresult launch(float by = 10) { return scale(f, s, x, y, 4, by); }
    void begin(CUstreamCaptureMode mode = THREAD_LOCAL) { OK(cuStreamBeginCapture_v2(s, mode)); }
    CUgraphExec end() {
        CUgraph graph;
        CUgraphExec executable;
        OK(cuStreamEndCapture(s, &graph));
        OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
        OK(cuGraphDestroy(graph));
        return executable;
    }
    CUresult end_fails() {
        CUgraph graph = reinterpret_cast<CUgraph>(1);
        CUresult result = cuStreamEndCapture(s, &graph);
        THAT(graph == nullptr);
        return result;
    }
    std::vector<float> out() { return download<float>(y, 4); }
    CUstreamCaptureStatus status() {
        CUstreamCaptureStatus status;
        OK(cuStreamIsCapturing(s, &status));
        return status;
    }
};

void replay() {
    fact("a captured launch runs at each launch of its graph, with what memory holds then", [] {
        Scene scene;
        scene.begin();
        THAT(scene.status() == CU_STREAM_CAPTURE_STATUS_ACTIVE);
        OK(scene.launch());
        CUgraphExec graph = scene.end();
        THAT(scene.status() == CU_STREAM_CAPTURE_STATUS_NONE && scene.out()[3] == 0);
        OK(cuGraphLaunch(graph, scene.s));
        THAT((scene.out() == std::vector<float>{10, 20, 30, 40}));
        std::vector<float> other{5, 6, 7, 8};
        OK(cuMemcpyHtoD_v2(scene.x, other.data(), 16));
        OK(cuGraphLaunch(graph, scene.s));
        THAT((scene.out() == std::vector<float>{50, 60, 70, 80}));
        OK(cuGraphExecDestroy(graph));
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuGraphLaunch(graph, scene.s));
    });
    fact("a graph keeps the arguments of its capture, and its operations in order", [] {
        Scene scene;
        scene.begin();
        OK(scene.launch(2));
        OK(cuMemcpyDtoDAsync_v2(scene.x, scene.y, 16, scene.s));
        OK(cuMemsetD8Async(scene.y, 0, 8, scene.s));
        CUgraph graph;
        OK(cuStreamEndCapture(scene.s, &graph));
        size_t nodes;
        OK(cuGraphGetNodes(graph, nullptr, &nodes));
        THAT(nodes == 3);
        CUgraphExec executable;
        OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
        OK(cuGraphLaunch(executable, scene.s));
        OK(cuGraphLaunch(executable, scene.s));
        THAT((scene.download<float>(scene.x, 4) == std::vector<float>{4, 8, 12, 16}) &&
             (scene.out() == std::vector<float>{0, 0, 12, 16}));
    });
    fact("a captured copy from the host reads it at each launch", [] {
        Scene scene;
        float* pinned = scene.pinned<float>(4);
        for (int i = 0; i < 4; i++) pinned[i] = 1;
        scene.begin();
        OK(cuMemcpyHtoDAsync_v2(scene.x, pinned, 16, scene.s));
        OK(scene.launch());
        CUgraphExec graph = scene.end();
        for (int i = 0; i < 4; i++) pinned[i] = 7;
        OK(cuGraphLaunch(graph, scene.s));
        THAT(scene.out()[0] == 70);
    });
    fact("a graph can be launched into another capture", [] {
        Scene scene;
        scene.begin();
        OK(scene.launch());
        CUgraphExec inner = scene.end();
        scene.begin();
        OK(cuGraphLaunch(inner, scene.s));
        CUgraphExec outer = scene.end();
        THAT(scene.out()[0] == 0);
        OK(cuGraphLaunch(outer, scene.s));
        THAT(scene.out()[0] == 10);
    });
    fact("memory freed after the capture is an illegal address at the launch", [] {
        Scene scene;
        scene.begin();
        OK(scene.launch());
        CUgraphExec graph = scene.end();
        OK(cuMemFree_v2(scene.x));
        std::string told;
        OK(cuGraphLaunch(graph, scene.s));
        GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(scene.s));
    });
    fact("flags that contradict each other are refused", [] {
        Scene scene;
        scene.begin();
        CUgraph graph;
        CUgraphExec executable;
        OK(cuStreamEndCapture(scene.s, &graph));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithFlags(&executable, graph, 1 | 4));
        OK(cuGraphInstantiateWithFlags(&executable, graph, 1 | 8));
    });
}

void waits() {
    fact("waiting for a captured stream is forbidden and ends its capture", [] {
        Scene scene;
        for (auto wait : {cuStreamSynchronize, cuStreamQuery}) {
            scene.begin();
            GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, wait(scene.s));
            THAT(scene.status() == CU_STREAM_CAPTURE_STATUS_INVALIDATED);
            GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, scene.launch());
            GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, scene.end_fails());
            THAT(scene.status() == CU_STREAM_CAPTURE_STATUS_NONE);
            OK(scene.launch());
        }
    });
    fact("waiting for the context is forbidden", [] {
        Scene scene;
        scene.begin(RELAXED);
        GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuCtxSynchronize());
        GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, scene.end_fails());
    });
    fact("asking for an event that was recorded in a capture is forbidden and ends it", [] {
        Scene scene;
        CUevent event = scene.event();
        for (auto ask : {cuEventQuery, cuEventSynchronize}) {
            scene.begin(THREAD_LOCAL);
            OK(cuEventRecord(event, scene.s));
            GIVES(CUDA_ERROR_CAPTURED_EVENT, ask(event));
            GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, scene.end_fails());
        }
        GIVES(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(event));
        GIVES(CUDA_ERROR_CAPTURED_EVENT, cuStreamWaitEvent(scene.s, event, 0));
        OK(cuEventRecord(event, scene.s));
        OK(cuEventQuery(event));
    });
}

void unsafe_calls() {
    fact("allocation is forbidden in a capture that is not relaxed", [] {
        Scene scene;
        CUdeviceptr address;
        void* host;
        for (auto mode : {GLOBAL, THREAD_LOCAL}) {
            scene.begin(mode);
            GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc_v2(&address, 16));
            GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemHostAlloc(&host, 16, 0));
            GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, scene.end_fails());
        }
        scene.begin(RELAXED);
        OK(cuMemAlloc_v2(&address, 16));
        scene.end();
    });
    fact("synchronous copies are forbidden", [] {
        Scene scene;
        float host[4];
        scene.begin();
        GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemcpyDtoH_v2(host, scene.x, 16));
        GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, scene.end_fails());
    });
    fact("a thread that asks events spoils a global capture of another, not a local one", [] {
        Scene scene;
        CUevent event = scene.event();
        CUresult asked;
        auto ask = [&] {
            std::thread([&] {
                cuCtxSetCurrent(scene.context);
                asked = cuEventQuery(event);
            }).join();
        };
        scene.begin(THREAD_LOCAL);
        ask();
        OK(asked);
        scene.end();
        scene.begin(GLOBAL);
        ask();
        GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, asked);
        GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, scene.end_fails());
    });
    fact("a thread can declare itself relaxed", [] {
        Scene scene;
        CUdeviceptr address;
        CUstreamCaptureMode mode = RELAXED;
        scene.begin(GLOBAL);
        OK(cuThreadExchangeStreamCaptureMode(&mode));
        OK(cuMemAlloc_v2(&address, 16));
        OK(cuThreadExchangeStreamCaptureMode(&mode));
        scene.end();
        THAT(mode == RELAXED);
    });
    fact("a captured stream allocates nothing", [] {
        Scene scene;
        CUdeviceptr address;
        scene.begin(RELAXED);
        GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAllocAsync(&address, 16, scene.s));
        GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(scene.x, scene.s));
        scene.end();
    });
}

void streams() {
    fact("another thread can't end a capture that is not relaxed", [] {
        Scene scene;
        auto end = [&] {
            CUgraph graph;
            CUresult result;
            std::thread([&] {
                cuCtxSetCurrent(scene.context);
                result = cuStreamEndCapture(scene.s, &graph);
            }).join();
            return result;
        };
        scene.begin(THREAD_LOCAL);
        GIVES(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, end());
        scene.end();
        scene.begin(RELAXED);
        OK(end());
    });
    fact("captures neither nest nor end unbegun", [] {
        Scene scene;
        GIVES(CUDA_ERROR_ILLEGAL_STATE, scene.end_fails());
        scene.begin();
        GIVES(CUDA_ERROR_ILLEGAL_STATE, cuStreamBeginCapture_v2(scene.s, THREAD_LOCAL));
        scene.end();
    });
    fact("the legacy stream can't be captured, nor used beside a captured blocking stream", [] {
        Scene scene;
        GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture_v2(nullptr, RELAXED));
        CUstream blocking;
        CUgraph graph;
        OK(cuStreamCreate(&blocking, 0));
        OK(cuStreamBeginCapture_v2(blocking, RELAXED));
        GIVES(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemsetD8Async(scene.x, 0, 16, nullptr));
        GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(blocking, &graph));
    });
    fact("a capture can't depend on work outside of it", [] {
        Scene scene;
        CUevent event = scene.event();
        OK(cuEventRecord(event, scene.stream()));
        scene.begin();
        GIVES(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(scene.s, event, 0));
        GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, scene.end_fails());
    });
    fact("another stream joins a capture through events, and has to come back", [] {
        Scene scene;
        CUstream side = scene.stream();
        CUevent fork = scene.event(), join = scene.event();
        scene.begin();
        OK(scene.launch());
        OK(cuEventRecord(fork, scene.s));
        OK(cuStreamWaitEvent(side, fork, 0));
        OK(scale(scene.f, side, scene.y, scene.y, 4, 2));
        GIVES(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, scene.end_fails());
        scene.begin();
        OK(scene.launch());
        OK(cuEventRecord(fork, scene.s));
        OK(cuStreamWaitEvent(side, fork, 0));
        OK(scale(scene.f, side, scene.y, scene.y, 4, 2));
        OK(cuEventRecord(join, side));
        OK(cuStreamWaitEvent(scene.s, join, 0));
        OK(cuGraphLaunch(scene.end(), scene.s));
        THAT(scene.out()[0] == 20);
    });
    fact("a capture goes with its stream, and with its context", [] {
        {
            Scene scene;
            scene.begin(GLOBAL);
            OK(cuStreamDestroy_v2(scene.s));
            scene.memory(16);
            scene.s = scene.stream();
            scene.begin(GLOBAL);
        }
        Scene().memory(16);
    });
    fact("two captures can't merge", [] {
        Scene scene;
        CUstream other = scene.stream();
        CUevent event = scene.event();
        CUgraph graph;
        scene.begin();
        OK(cuEventRecord(event, scene.s));
        OK(cuStreamBeginCapture_v2(other, THREAD_LOCAL));
        GIVES(CUDA_ERROR_STREAM_CAPTURE_MERGE, cuStreamWaitEvent(other, event, 0));
        GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(other, &graph));
        scene.end();
    });
}

}  // namespace

int main() {
    replay();
    waits();
    unsafe_calls();
    streams();
    return summary();
}
