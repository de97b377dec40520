// A stream: operations that run one after another. Without FAKE_CUDA_ASYNC an operation runs in the call that enqueues
// it, unless it may have to wait for somebody (a peer, another stream): that one, and all behind it, run on the
// stream's own thread, so that a call never hangs where CUDA's would return.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "types.h"

namespace fake {

class Context;
struct Capture;

/// Work on the device. A captured one runs once a launch of its graph.
struct Operation {
    std::function<CUresult()> run;
    bool may_block = false;
};

class Stream : public std::enable_shared_from_this<Stream> {
  public:
    /// The number of an operation in its stream, from 1.
    using Position = uint64_t;

    Stream(std::shared_ptr<Context> context, bool blocking) : blocking(blocking), context_(context) {}

    std::shared_ptr<Context> context() const { return context_.lock(); }
    Position push(Operation operation);
    Position last();
    bool reached(Position position);
    /// Returns when the operation is done, or its context has failed.
    void wait(Position position);
    /// What is pushed from now on runs after what `other` holds now.
    void follow(Stream& other);
    /// No more will come: its thread ends when the queue is empty.
    void close();

    /// Whether it and the legacy stream wait for each other: it was made without CU_STREAM_NON_BLOCKING.
    const bool blocking;
    /// The capture that it is in, guarded by the one mutex of captures.
    std::shared_ptr<Capture> capture;

  private:
    void execute(const Operation& operation);
    void work();

    // Its context owns the legacy stream, so this must not own the context.
    std::weak_ptr<Context> context_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Operation> queue_;
    Position pushed_ = 0, done_ = 0;
    unsigned waiters_ = 0;
    bool running_ = false, has_thread_ = false, closed_ = false;
};

}  // namespace fake
