#include "capture.h"

#include <algorithm>
#include <utility>

#include "event.h"

namespace fake {

namespace {

/// Guards every capture, and which stream is in which.
std::mutex mutex;
/// Those that go on.
std::vector<std::shared_ptr<Capture>>& active = *new std::vector<std::shared_ptr<Capture>>;
thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

/// The functions of this namespace want the mutex held.

void finish(Capture& capture) {
    capture.ended = true;
    for (auto& weak : capture.streams)
        if (auto stream = weak.lock()) stream->capture.reset();
    active.erase(std::remove_if(active.begin(), active.end(), [&](auto& c) { return c.get() == &capture; }), active.end());
}

CUresult invalidate(Capture& capture, CUresult error) {
    capture.invalidated = true;
    return error;
}

void join(Stream& stream, const std::shared_ptr<Capture>& capture) {
    stream.capture = capture;
    capture->streams.push_back(stream.weak_from_this());
}

void merge(Clock& into, const Clock& from) {
    for (auto& [stream, count] : from) into[stream] = std::max(into[stream], count);
}

bool is_joined(const Capture& capture) {
    auto origin = capture.clocks.find(capture.origin);
    for (auto& [stream, clock] : capture.clocks) {
        auto own = clock.find(stream);
        if (stream == capture.origin || own == clock.end()) continue;
        if (origin == capture.clocks.end()) return false;
        auto seen = origin->second.find(stream);
        if (seen == origin->second.end() || seen->second < own->second) return false;
    }
    return true;
}

bool forbids(const Capture& capture) {
    bool own = capture.thread == std::this_thread::get_id();
    if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
    if (own) return capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED;
    return thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL && capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

/// Using the legacy stream would make it wait for the blocking streams that are captured.
CUresult refuse_legacy(Stream& stream) {
    CUresult result = CUDA_SUCCESS;
    for (auto& capture : active)
        for (auto& weak : capture->streams)
            if (auto other = weak.lock(); other && other->blocking && other->context() == stream.context())
                result = invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    return result;
}

bool is_legacy(const Stream& stream) {
    auto context = stream.context();
    return context && context->legacy_stream().get() == &stream;
}

/// The legacy stream and the blocking ones of a context run one after another.
void order_with_legacy(Stream& stream) {
    auto context = stream.context();
    if (!stream.blocking || !context) return;
    if (!is_legacy(stream)) return stream.follow(*context->legacy_stream());
    for (auto& other : context->streams())
        if (other->blocking) stream.follow(*other);
}

}  // namespace

CUresult begin_capture(Stream& stream, CUstreamCaptureMode mode) {
    if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    if (is_legacy(stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    std::lock_guard guard(mutex);
    if (stream.capture) return CUDA_ERROR_ILLEGAL_STATE;
    auto capture = std::make_shared<Capture>();
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->origin = &stream;
    join(stream, capture);
    active.push_back(capture);
    return CUDA_SUCCESS;
}

CUresult end_capture(Stream& stream, std::vector<Operation>& operations) {
    std::lock_guard guard(mutex);
    auto capture = stream.capture;
    if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id())
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    if (capture->origin != &stream) return invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    finish(*capture);
    if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!is_joined(*capture)) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    operations = std::move(capture->operations);
    return CUDA_SUCCESS;
}

void abandon_captures(Stream& stream) {
    std::lock_guard guard(mutex);
    if (auto capture = stream.capture) finish(*capture);
}

void abandon_captures(Context& context) {
    for (auto& stream : context.streams()) abandon_captures(*stream);
}

CUstreamCaptureStatus capture_status(const Stream& stream) {
    std::lock_guard guard(mutex);
    if (!stream.capture) return CU_STREAM_CAPTURE_STATUS_NONE;
    return stream.capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

CUstreamCaptureMode exchange_capture_mode(CUstreamCaptureMode mode) { return std::exchange(thread_mode, mode); }

CUresult submit(Stream& stream, Operation operation) {
    {
        std::lock_guard guard(mutex);
        if (is_legacy(stream))
            if (CUresult error = refuse_legacy(stream)) return error;
        if (auto& capture = stream.capture) {
            if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
            capture->operations.push_back(std::move(operation));
            capture->clocks[&stream][&stream]++;
            return CUDA_SUCCESS;
        }
    }
    order_with_legacy(stream);
    stream.push(std::move(operation));
    return CUDA_SUCCESS;
}

CUresult refuse_unsafe() {
    std::lock_guard guard(mutex);
    CUresult result = CUDA_SUCCESS;
    for (auto& capture : active)
        if (forbids(*capture)) result = invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    return result;
}

CUresult refuse_wait(Stream& stream) {
    {
        std::lock_guard guard(mutex);
        if (stream.capture) return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    return refuse_unsafe();
}

CUresult refuse_wait(Event& event) {
    {
        std::lock_guard guard(mutex);
        std::lock_guard event_guard(event.mutex);
        // Asking spoils a capture that goes on; the event stays what it is until it is recorded anew.
        if (event.captured) return invalidate(*event.captured->capture, CUDA_ERROR_CAPTURED_EVENT);
    }
    return refuse_unsafe();
}

CUresult refuse_wait(Context& context) {
    std::lock_guard guard(mutex);
    CUresult result = CUDA_SUCCESS;
    for (auto& capture : active)
        for (auto& weak : capture->streams)
            if (auto stream = weak.lock(); stream && stream->context().get() == &context)
                result = invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    return result;
}

CUresult record_event(Stream& stream, Event& event, bool external) {
    {
        std::lock_guard guard(mutex);
        if (auto& capture = stream.capture) {
            if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
            if (external) return CUDA_ERROR_NOT_SUPPORTED;
            std::lock_guard event_guard(event.mutex);
            event.captured = CapturedEvent{capture, capture->clocks[&stream]};
            event.recording.reset();
            return CUDA_SUCCESS;
        }
    }
    order_with_legacy(stream);
    record_now(stream, event);
    return CUDA_SUCCESS;
}

CUresult wait_event(Stream& stream, Event& event, bool external) {
    std::shared_ptr<Recording> recording;
    {
        std::lock_guard guard(mutex);
        std::lock_guard event_guard(event.mutex);
        if (auto& captured = event.captured) {
            Capture& capture = *captured->capture;
            if (capture.ended) return CUDA_ERROR_CAPTURED_EVENT;
            if (stream.capture && stream.capture != captured->capture)
                return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
            if (is_legacy(stream)) return invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            if (!stream.capture) join(stream, captured->capture);
            merge(capture.clocks[&stream], captured->clock);
            return CUDA_SUCCESS;
        }
        recording = event.recording;
        if (stream.capture && stream.capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        if (stream.capture && external) return CUDA_ERROR_NOT_SUPPORTED;
        if (stream.capture && recording) return invalidate(*stream.capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    }
    if (!recording || recording->stream->reached(recording->position)) return CUDA_SUCCESS;
    stream.push({[recording] {
                     recording->stream->wait(recording->position);
                     return CUDA_SUCCESS;
                 },
                 true});
    return CUDA_SUCCESS;
}

}  // namespace fake
