#include "../fake_enqueue.h"

#include "capture.h"
#include "memory.h"
#include "streams.h"

using namespace fake;

API int fakeEnqueue(void* handle, const char* name, int (*run)(void*), void (*drop)(void*), void* argument, int may_block) {
    // Dropped with the last copy of the operation, in a queue or in a graph.
    std::shared_ptr<void> owned(argument, drop);
    return in_context([&](Context& context) {
        auto stream = find_stream(context, static_cast<CUstream>(handle));
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (CUresult error = context.refuse_launch(name)) return error;
        auto weak = context.weak_from_this();
        return submit(*stream, {[=] {
                                    auto context = weak.lock();
                                    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
                                    if (CUresult error = context->count_launch(name)) return error;
                                    return CUresult(run(owned.get()));
                                },
                                may_block != 0});
    });
}

API int fakeError() {
    auto context = current_context();
    return context ? context->error() : CUDA_ERROR_INVALID_CONTEXT;
}

API int fakeAccessible(const void* address, size_t bytes) { return is_accessible(address, bytes); }

API int fakeCapturing(void* handle) {
    auto context = current_context();
    auto stream = context ? find_stream(*context, static_cast<CUstream>(handle)) : nullptr;
    return stream && capture_status(*stream) != CU_STREAM_CAPTURE_STATUS_NONE;
}
