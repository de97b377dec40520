// One life of a device: from the first retain of its primary context to the last release.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "switches.h"

namespace fake {

class Stream;

class Context : public std::enable_shared_from_this<Context> {
  public:
    static std::shared_ptr<Context> create(int ordinal);

    const int ordinal;
    const Switches switches;

    /// The error that every call gets from now on, as after a kernel that crashed; CUDA_SUCCESS while all is well.
    CUresult error() const;
    /// Keeps the first error of work on the device.
    void fail(CUresult error);

    /// Takes device memory, or says that there is not enough.
    bool take(size_t bytes);
    void give_back(size_t bytes);
    size_t free_bytes() const { return switches.memory - used_; }

    /// Counts a kernel that runs, and says how it ends if a switch says so.
    CUresult count_launch(const char* kernel);
    /// The same for errors that refuse a launch at the call and break nothing.
    CUresult refuse_launch(const char* kernel);

    std::shared_ptr<Stream> create_stream(bool blocking);
    /// The stream of handle 0, and that of handle 2 (one for all threads here).
    std::shared_ptr<Stream> legacy_stream() const { return legacy_; }
    std::shared_ptr<Stream> thread_stream() const { return thread_; }
    std::vector<std::shared_ptr<Stream>> streams();
    /// Waits for everything that was enqueued.
    void synchronize();

  private:
    explicit Context(int ordinal) : ordinal(ordinal), switches(Switches::read()) {}

    std::atomic<CUresult> error_{CUDA_SUCCESS};
    std::atomic<size_t> used_{0};
    std::atomic<size_t> ever_taken_{0};
    std::atomic<uint64_t> launches_{0};
    std::atomic<uint64_t> launches_of_failing_{0};
    std::shared_ptr<Stream> legacy_, thread_;
    std::mutex mutex_;
    std::vector<std::weak_ptr<Stream>> streams_;
};

/// That of the calling thread; null if it has none.
std::shared_ptr<Context> current_context();
void set_current_context(std::shared_ptr<Context> context);

/// Whether an error of work on the device ends the context, as CUDA's description of each error says.
bool is_sticky(CUresult error);

/// Runs `body(context)` for a call that needs a context in good order.
template <class Body>
CUresult in_context(Body body) {
    auto context = current_context();
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    if (CUresult error = context->error()) return error;
    return body(*context);
}

}  // namespace fake
