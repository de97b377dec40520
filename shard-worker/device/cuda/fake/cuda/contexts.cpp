// Primary contexts: they are retained, released, and made current on threads.
#include <cstdlib>
#include <map>

#include "../handles.h"
#include "capture.h"
#include "context.h"
#include "device.h"
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

}  // namespace

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
    if (CUresult error = check_initialised()) return error;
    auto context = handles<Context>().find(handle);
    if (handle && !context) return CUDA_ERROR_INVALID_CONTEXT;
    set_current_context(context);
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetCurrent(CUcontext* handle) {
    if (CUresult error = check_initialised()) return error;
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
