// Streams that run on their own: what a host that forgets to wait gets to see.
#include <atomic>
#include <thread>

#include "facts.h"

using namespace test;

namespace {

/// Keeps a stream busy until it is opened, at the end of its scope at the latest.
class Gate {
  public:
    explicit Gate(CUstream stream) {
        OK(cuLaunchHostFunc(
            stream,
            [](void* open) {
                while (!*static_cast<std::atomic<bool>*>(open)) usleep(100);
            },
            &open_));
    }
    ~Gate() { open(); }
    void open() { open_ = true; }

  private:
    // The stream looks at it a last time when this is gone.
    std::atomic<bool>& open_ = *new std::atomic<bool>(false);
};

void pageable_and_pinned() {
    fact("a pageable source is read before the call returns, a pinned one later", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}, {"FAKE_CUDA_DELAY_US", "2000000"}};
        CUstream stream = life.stream();
        CUdeviceptr a = life.memory(4), b = life.memory(4);
        int pageable = 1, *pinned = life.pinned<int>(1);
        *pinned = 1;
        OK(cuMemcpyHtoDAsync_v2(a, &pageable, 4, stream));
        OK(cuMemcpyHtoDAsync_v2(b, pinned, 4, stream));
        pageable = 2, *pinned = 2;
        OK(cuStreamSynchronize(stream));
        THAT(life.download<int>(a, 1)[0] == 1 && life.download<int>(b, 1)[0] == 2);
    });
    fact("a pinned destination is stale until the host waits, a pageable one is not", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}, {"FAKE_CUDA_DELAY_US", "2000000"}};
        CUstream stream = life.stream();
        CUdeviceptr a = life.upload(std::vector<int>{5});
        int pageable = 0, *pinned = life.pinned<int>(1);
        OK(cuMemcpyDtoHAsync_v2(pinned, a, 4, stream));
        THAT(*pinned == -1);
        OK(cuStreamSynchronize(stream));
        THAT(*pinned == 5);
        OK(cuMemcpyDtoHAsync_v2(&pageable, a, 4, stream));
        THAT(pageable == 5);
    });
}

void order() {
    fact("calls return before the work is done, and queries say so", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}};
        CUstream stream = life.stream();
        CUevent event = life.event();
        Gate gate(stream);
        OK(cuEventRecord(event, stream));
        GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
        GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(event));
        gate.open();
        OK(cuEventSynchronize(event));
        OK(cuEventQuery(event));
        OK(cuStreamSynchronize(stream));
        OK(cuStreamQuery(stream));
    });
    fact("streams don't wait for each other, unless an event makes them", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}};
        CUstream slow = life.stream(), fast = life.stream();
        CUevent event = life.event();
        CUfunction f = life.function("fake_scale");
        CUdeviceptr x = life.upload(std::vector<float>{1}), y = life.memory(4), z = life.memory(4);
        Gate gate(slow);
        OK(scale(f, slow, x, y, 1, 2));
        OK(cuEventRecord(event, slow));
        OK(scale(f, fast, x, z, 1, 3));
        OK(cuStreamSynchronize(fast));
        OK(cuStreamWaitEvent(fast, event, 0));
        OK(scale(f, fast, y, z, 1, 10));
        GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(fast));
        gate.open();
        OK(cuStreamSynchronize(fast));
        THAT(life.download<float>(z, 1)[0] == 20);
    });
    fact("the legacy stream waits for blocking streams, and they for it", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}};
        CUstream blocking;
        OK(cuStreamCreate(&blocking, 0));
        for (auto [first, second] : {std::pair(blocking, CUstream(nullptr)), std::pair(CUstream(nullptr), blocking)}) {
            CUdeviceptr x = life.upload(std::vector<float>{1});
            Gate gate(first);
            OK(scale(life.function("fake_scale"), first, x, x, 1, 2));
            OK(cuMemsetD8Async(x, 0, 4, second));
            OK(cuEventRecord(life.event(), second));
            usleep(2000);
            GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(second));
            gate.open();
            OK(cuCtxSynchronize());
            THAT(life.download<float>(x, 1)[0] == 0);
        }
    });
    fact("arguments are copied at the call", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}, {"FAKE_CUDA_DELAY_US", "2000000"}};
        CUstream stream = life.stream();
        CUdeviceptr x = life.upload(std::vector<float>{1}), y = life.memory(4);
        OK(scale(life.function("fake_scale"), stream, x, y, 1, 6));
        OK(cuStreamSynchronize(stream));
        THAT(life.download<float>(y, 1)[0] == 6);
    });
    fact("memory is freed in the order of its stream", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}, {"FAKE_CUDA_DELAY_US", "2000000"}};
        CUstream stream = life.stream();
        CUdeviceptr x, y = life.memory(4);
        OK(cuMemAllocAsync(&x, 4, stream));
        OK(cuMemsetD32Async(x, 0x3f800000, 1, stream));
        OK(scale(life.function("fake_scale"), stream, x, y, 1, 6));
        OK(cuMemFreeAsync(x, stream));
        OK(cuStreamSynchronize(stream));
        THAT(life.download<float>(y, 1)[0] == 6);
    });
    fact("memory freed while a stream still wants it is an illegal address", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}, {"FAKE_CUDA_DELAY_US", "2000000"}};
        CUstream stream = life.stream();
        CUdeviceptr x, y = life.memory(4);
        OK(cuMemAllocAsync(&x, 4, stream));
        OK(cuStreamSynchronize(stream));
        OK(scale(life.function("fake_scale"), stream, x, y, 1, 6));
        OK(cuMemFree_v2(x));
        GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(stream));
    });
    fact("a stream that is destroyed ends its work first", [] {
        Life life{{"FAKE_CUDA_ASYNC", "1"}};
        CUstream stream = life.stream();
        CUdeviceptr x = life.upload(std::vector<float>{1}), y = life.memory(4);
        OK(scale(life.function("fake_scale"), stream, x, y, 1, 6));
        OK(cuStreamDestroy_v2(stream));
        OK(cuCtxSynchronize());
        THAT(life.download<float>(y, 1)[0] == 6);
        GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(stream));
    });
}

}  // namespace

int main() {
    pageable_and_pinned();
    order();
    return summary();
}
