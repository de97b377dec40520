#include "context.h"

#include <set>

#include "stream.h"

namespace fake {

namespace {

thread_local std::shared_ptr<Context> current;

/// Devices that fell off the bus stay away for the rest of the process.
std::mutex gone_mutex;
std::set<int>& gone = *new std::set<int>;

bool is_gone(int ordinal) {
    std::lock_guard guard(gone_mutex);
    return gone.count(ordinal) != 0;
}

}  // namespace

std::shared_ptr<Context> current_context() { return current; }
void set_current_context(std::shared_ptr<Context> context) { current = std::move(context); }

bool is_sticky(CUresult error) {
    switch (error) {
        case CUDA_ERROR_DEVICE_UNAVAILABLE:
        case CUDA_ERROR_ECC_UNCORRECTABLE:
        case CUDA_ERROR_NVLINK_UNCORRECTABLE:
        case CUDA_ERROR_CONTAINED:
        case CUDA_ERROR_ILLEGAL_ADDRESS:
        case CUDA_ERROR_LAUNCH_TIMEOUT:
        case CUDA_ERROR_ASSERT:
        case CUDA_ERROR_HARDWARE_STACK_ERROR:
        case CUDA_ERROR_ILLEGAL_INSTRUCTION:
        case CUDA_ERROR_MISALIGNED_ADDRESS:
        case CUDA_ERROR_INVALID_ADDRESS_SPACE:
        case CUDA_ERROR_INVALID_PC:
        case CUDA_ERROR_LAUNCH_FAILED:
        case CUDA_ERROR_UNKNOWN: return true;
        default: return false;
    }
}

std::shared_ptr<Context> Context::create(int ordinal) {
    if (is_gone(ordinal)) return nullptr;
    std::shared_ptr<Context> context(new Context(ordinal));
    context->legacy_ = context->create_stream(true);
    context->thread_ = context->create_stream(true);
    return context;
}

CUresult Context::error() const { return is_gone(ordinal) ? CUDA_ERROR_DEVICE_UNAVAILABLE : error_.load(); }

void Context::fail(CUresult error) {
    CUresult none = CUDA_SUCCESS;
    error_.compare_exchange_strong(none, error);
}

bool Context::take(size_t bytes) {
    if (ever_taken_ + bytes > switches.exhausted_after) return false;
    size_t used = used_;
    do {
        if (bytes > switches.memory - used) return false;
    } while (!used_.compare_exchange_weak(used, used + bytes));
    ever_taken_ += bytes;
    return true;
}

void Context::give_back(size_t bytes) { used_ -= bytes; }

CUresult Context::count_launch(const char* kernel) {
    if (++launches_ > switches.vanish_after) {
        std::lock_guard guard(gone_mutex);
        gone.insert(ordinal);
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
    if (!is_sticky(switches.fail_code) || switches.fail_kernel != kernel) return CUDA_SUCCESS;
    return ++launches_of_failing_ == switches.fail_launch ? switches.fail_code : CUDA_SUCCESS;
}

CUresult Context::refuse_launch(const char* kernel) {
    if (!switches.fail_code || is_sticky(switches.fail_code) || switches.fail_kernel != kernel) return CUDA_SUCCESS;
    return ++launches_of_failing_ == switches.fail_launch ? switches.fail_code : CUDA_SUCCESS;
}

std::shared_ptr<Stream> Context::create_stream(bool blocking) {
    auto stream = std::make_shared<Stream>(shared_from_this(), blocking);
    std::lock_guard guard(mutex_);
    streams_.push_back(stream);
    return stream;
}

std::vector<std::shared_ptr<Stream>> Context::streams() {
    std::lock_guard guard(mutex_);
    std::vector<std::shared_ptr<Stream>> live;
    std::vector<std::weak_ptr<Stream>> kept;
    for (auto& weak : streams_)
        if (auto stream = weak.lock()) live.push_back(stream), kept.push_back(weak);
    streams_.swap(kept);
    return live;
}

void Context::synchronize() {
    for (auto& stream : streams()) stream->wait(stream->last());
}

}  // namespace fake
