#include "streams.h"

#include "capture.h"
#include "../handles.h"

using namespace fake;

std::shared_ptr<Stream> fake::find_stream(Context& context, CUstream handle) {
    // CU_STREAM_LEGACY and CU_STREAM_PER_THREAD.
    uintptr_t number = reinterpret_cast<uintptr_t>(handle);
    if (number < 2) return context.legacy_stream();
    if (number == 2) return context.thread_stream();
    auto stream = handles<Stream>().find(handle);
    return stream && stream->context().get() == &context ? stream : nullptr;
}

namespace {

constexpr unsigned NON_BLOCKING = 1;

/// Runs `body(stream)` for a stream of the current context.
template <class Body>
CUresult with_stream(CUstream handle, Body body) {
    return in_context([&](Context& context) {
        auto stream = find_stream(context, handle);
        return stream ? body(*stream) : CUDA_ERROR_INVALID_HANDLE;
    });
}

}  // namespace

API CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) {
    return in_context([&](Context& context) {
        if (!stream || flags > NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
        *stream = handles<Stream>().add<CUstream>(context.create_stream(flags != NON_BLOCKING));
        return CUDA_SUCCESS;
    });
}

API CUresult cuStreamCreate(CUstream* stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

API CUresult cuStreamDestroy_v2(CUstream handle) {
    auto stream = handles<Stream>().take(handle);
    if (stream) {
        abandon_captures(*stream);
        stream->close();
    }
    return in_context([&](Context&) { return stream ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}

API CUresult cuStreamSynchronize(CUstream handle) {
    CUresult result = with_stream(handle, [](Stream& stream) {
        if (CUresult error = refuse_wait(stream)) return error;
        stream.wait(stream.last());
        return CUDA_SUCCESS;
    });
    return result ? result : in_context([](Context&) { return CUDA_SUCCESS; });
}

API CUresult cuStreamQuery(CUstream handle) {
    return with_stream(handle, [](Stream& stream) {
        if (CUresult error = refuse_wait(stream)) return error;
        return stream.reached(stream.last()) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
    });
}

API CUresult cuStreamGetFlags(CUstream handle, unsigned* flags) {
    return with_stream(handle, [&](Stream& stream) {
        *flags = stream.blocking ? 0 : NON_BLOCKING;
        return CUDA_SUCCESS;
    });
}

API CUresult cuStreamGetPriority(CUstream handle, int* priority) {
    return with_stream(handle, [&](Stream&) {
        *priority = 0;
        return CUDA_SUCCESS;
    });
}

API CUresult cuStreamGetCtx(CUstream handle, CUcontext* context) {
    return with_stream(handle, [&](Stream& stream) {
        *context = reinterpret_cast<CUcontext>(stream.context().get());
        return CUDA_SUCCESS;
    });
}

API CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
    return with_stream(handle, [&](Stream& stream) { return begin_capture(stream, mode); });
}

API CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
    return with_stream(handle, [&](Stream& stream) {
        *status = capture_status(stream);
        return CUDA_SUCCESS;
    });
}

API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
    if (!mode || *mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    *mode = exchange_capture_mode(*mode);
    return CUDA_SUCCESS;
}
