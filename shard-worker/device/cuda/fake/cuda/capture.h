// Stream capture: operations that go into a graph instead of onto the device, and what CUDA forbids meanwhile.
#pragma once

#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "context.h"
#include "stream.h"

namespace fake {

struct Event;

/// How much of each stream of a capture something comes after.
using Clock = std::map<const Stream*, size_t>;

struct Capture {
    CUstreamCaptureMode mode;
    std::thread::id thread;
    const Stream* origin;
    bool invalidated = false, ended = false;
    /// In the order of the calls, which is an order that their dependencies allow.
    std::vector<Operation> operations;
    std::map<const Stream*, Clock> clocks;
    std::vector<std::weak_ptr<Stream>> streams;
};

/// Where the event of a capture stands in it.
struct CapturedEvent {
    std::shared_ptr<Capture> capture;
    Clock clock;
};

CUresult begin_capture(Stream& stream, CUstreamCaptureMode mode);
/// Gives the captured operations.
CUresult end_capture(Stream& stream, std::vector<Operation>& operations);
/// Ends the captures of a stream, or a context's streams, that are no more.
void abandon_captures(Stream& stream);
void abandon_captures(Context& context);
CUstreamCaptureStatus capture_status(const Stream& stream);
CUstreamCaptureMode exchange_capture_mode(CUstreamCaptureMode mode);

/// Puts work on a stream, or into the graph that it is captured to.
CUresult submit(Stream& stream, Operation operation);
/// For calls that CUDA calls potentially unsafe during a capture: what they return, and the end of the capture they spoil.
CUresult refuse_unsafe();
/// For calls that wait for a stream or ask how far it is.
CUresult refuse_wait(Stream& stream);
/// For calls that wait for an event or ask for it.
CUresult refuse_wait(Event& event);
/// For calls that wait for a context.
CUresult refuse_wait(Context& context);

CUresult record_event(Stream& stream, Event& event, bool external);
CUresult wait_event(Stream& stream, Event& event, bool external);

}  // namespace fake
