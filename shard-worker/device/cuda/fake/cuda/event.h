// Events: a position in a stream and the time it was reached.
#pragma once

#include <memory>
#include <mutex>
#include <optional>

#include "capture.h"

namespace fake {

/// One recording of an event.
struct Recording {
    std::shared_ptr<Stream> stream;
    Stream::Position position = 0;
    /// Seconds, set when the device gets there.
    double time = 0;
};

struct Event {
    const std::weak_ptr<Context> context;
    const bool timed;

    Event(std::shared_ptr<Context> context, bool timed) : context(context), timed(timed) {}

    std::mutex mutex;
    /// The last recording; none if it was never recorded, or last in a capture.
    std::shared_ptr<Recording> recording;
    std::optional<CapturedEvent> captured;

    std::shared_ptr<Recording> last_recording() {
        std::lock_guard guard(mutex);
        return recording;
    }
};

/// Enqueues a recording of the event.
void record_now(Stream& stream, Event& event);

}  // namespace fake
