#include "stream.h"

#include <thread>

#include "context.h"

namespace fake {

using namespace std::chrono_literals;

Stream::Position Stream::push(Operation operation) {
    auto context = this->context();
    std::unique_lock lock(mutex_);
    Position position = ++pushed_;
    if (queue_.empty() && !running_ && !operation.may_block && context && !context->switches.async) {
        running_ = true;
        lock.unlock();
        execute(operation);
        lock.lock();
        running_ = false;
        done_++;
    } else {
        queue_.push_back(std::move(operation));
        if (!has_thread_) std::thread([self = shared_from_this()] { self->work(); }).detach();
        has_thread_ = true;
    }
    changed_.notify_all();
    return position;
}

Stream::Position Stream::last() {
    std::lock_guard guard(mutex_);
    return pushed_;
}

bool Stream::reached(Position position) {
    std::lock_guard guard(mutex_);
    return done_ >= position;
}

void Stream::wait(Position position) {
    auto context = this->context();
    std::unique_lock lock(mutex_);
    waiters_++;
    changed_.notify_all();
    // A context that fails wakes nobody, so waiters look.
    while (done_ < position && context && !context->error()) changed_.wait_for(lock, 1ms);
    waiters_--;
}

void Stream::follow(Stream& other) {
    Position position = other.last();
    if (&other == this || other.reached(position)) return;
    push({[other = other.shared_from_this(), position] {
              other->wait(position);
              return CUDA_SUCCESS;
          },
          true});
}

void Stream::close() {
    std::lock_guard guard(mutex_);
    closed_ = true;
    changed_.notify_all();
}

/// Work behind a failure is dropped, as the device drops it.
void Stream::execute(const Operation& operation) {
    auto context = this->context();
    if (!context || context->error()) return;
    if (CUresult error = operation.run()) context->fail(error);
}

void Stream::work() {
    auto context = this->context();
    if (!context) return;
    auto delay = std::chrono::microseconds(context->switches.delay_us);
    set_current_context(context);
    context.reset();
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [&] { return !running_ && (closed_ || !queue_.empty()); });
        if (queue_.empty()) break;
        // The device is not faster than a host that forgot to wait for it.
        changed_.wait_for(lock, delay, [&] { return waiters_ > 0; });
        while (!queue_.empty()) {
            Operation operation = std::move(queue_.front());
            queue_.pop_front();
            running_ = true;
            lock.unlock();
            execute(operation);
            operation = {};
            lock.lock();
            running_ = false;
            done_++;
            changed_.notify_all();
        }
    }
    has_thread_ = false;
}

}  // namespace fake
