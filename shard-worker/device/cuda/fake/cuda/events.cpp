#include <chrono>

#include "event.h"
#include "../handles.h"
#include "streams.h"

using namespace fake;

void fake::record_now(Stream& stream, Event& event) {
    auto recording = std::make_shared<Recording>();
    recording->stream = stream.shared_from_this();
    recording->position = stream.push({[recording] {
        recording->time = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
        return CUDA_SUCCESS;
    }});
    std::lock_guard guard(event.mutex);
    event.captured.reset();
    event.recording = recording;
}

namespace {

constexpr unsigned DISABLE_TIMING = 2, EXTERNAL = 1;

/// Runs `body(event)` for an event whose state may be asked for now.
template <class Body>
CUresult with_recorded(CUevent handle, Body body) {
    return in_context([&](Context&) {
        auto event = handles<Event>().find(handle);
        if (!event) return CUDA_ERROR_INVALID_HANDLE;
        if (CUresult error = refuse_wait(*event)) return error;
        return body(*event);
    });
}

bool is_done(Event& event) {
    auto recording = event.last_recording();
    return !recording || recording->stream->reached(recording->position);
}

}  // namespace

API CUresult cuEventCreate(CUevent* event, unsigned flags) {
    return in_context([&](Context& context) {
        if (!event) return CUDA_ERROR_INVALID_VALUE;
        *event = handles<Event>().add<CUevent>(std::make_shared<Event>(context.shared_from_this(), !(flags & DISABLE_TIMING)));
        return CUDA_SUCCESS;
    });
}

API CUresult cuEventDestroy_v2(CUevent handle) {
    auto event = handles<Event>().take(handle);
    return in_context([&](Context&) { return event ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}

API CUresult cuEventRecordWithFlags(CUevent handle, CUstream stream_handle, unsigned flags) {
    return in_context([&](Context& context) {
        auto event = handles<Event>().find(handle);
        auto stream = find_stream(context, stream_handle);
        if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
        if (event->context.lock().get() != &context) return CUDA_ERROR_INVALID_CONTEXT;
        return record_event(*stream, *event, flags & EXTERNAL);
    });
}

API CUresult cuEventRecord(CUevent event, CUstream stream) { return cuEventRecordWithFlags(event, stream, 0); }

API CUresult cuStreamWaitEvent(CUstream stream_handle, CUevent handle, unsigned flags) {
    return in_context([&](Context& context) {
        auto event = handles<Event>().find(handle);
        auto stream = find_stream(context, stream_handle);
        if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
        return wait_event(*stream, *event, flags & EXTERNAL);
    });
}

API CUresult cuEventQuery(CUevent handle) {
    return with_recorded(handle, [](Event& event) { return is_done(event) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY; });
}

API CUresult cuEventSynchronize(CUevent handle) {
    CUresult result = with_recorded(handle, [](Event& event) {
        if (auto recording = event.last_recording()) recording->stream->wait(recording->position);
        return CUDA_SUCCESS;
    });
    return result ? result : in_context([](Context&) { return CUDA_SUCCESS; });
}

API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start_handle, CUevent end_handle) {
    return in_context([&](Context&) {
        auto start = handles<Event>().find(start_handle), end = handles<Event>().find(end_handle);
        if (!milliseconds) return CUDA_ERROR_INVALID_VALUE;
        if (!start || !end || !start->timed || !end->timed) return CUDA_ERROR_INVALID_HANDLE;
        auto from = start->last_recording(), to = end->last_recording();
        if (!from || !to) return CUDA_ERROR_INVALID_HANDLE;
        if (!is_done(*start) || !is_done(*end)) return CUDA_ERROR_NOT_READY;
        *milliseconds = float((to->time - from->time) * 1e3);
        return CUDA_SUCCESS;
    });
}

API CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
