// A communicator: this rank's place among the ranks, and whether all is well.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "board.h"
#include "types.h"

namespace fake {

/// Keeps the words for ncclGetLastError.
ncclResult_t failed(ncclResult_t result, const std::string& words);
std::string last_error();

class Communicator : public std::enable_shared_from_this<Communicator> {
  public:
    Communicator(int ranks, int rank, bool blocking, int device, void* context)
        : ranks(ranks), rank(rank), blocking(blocking), device(device), context(context) {}

    const int ranks, rank;
    const bool blocking;
    const int device;
    /// The CUcontext that it was made in.
    void* const context;

    /// Meets the others, on a thread of its own; `state` tells how it goes.
    void meet(const std::string& name);
    /// What ncclCommGetAsyncError tells.
    ncclResult_t state();
    /// Whether a call may be made now, and what it returns if not.
    ncclResult_t ready();
    /// For the first collective: the ranks connect, which takes a moment. A communicator that does not block says so.
    ncclResult_t connect();

    /// Waits on behalf of one that blocks.
    ncclResult_t settle();
    /// Ends what runs; nothing that was enqueued does anything any more.
    void stop();
    /// Waits until no graph has operations of this communicator, as NCCL does before it frees one, aborted or not.
    void wait_for_graphs();
    /// The others see that it is gone.
    void leave();

    /// Runs `body` as one of the communicator's operations, in order with the others.
    void operate(const std::function<void()>& body);
    void count_enqueued() { outstanding_++; }
    void count_done() { outstanding_--; }
    void count_captured() { captured_++; }
    void count_released() { captured_--; }
    bool is_idle() const { return outstanding_ == 0; }
    bool is_aborted() const { return aborted_; }

    /// Waits until `done()` is true because of what another rank does. False once this communicator is aborted. A rank
    /// that died is told through `state`, and the wait goes on, as a kernel of NCCL does.
    bool wait_for(int other, const std::function<bool()>& done);
    void report(ncclResult_t error, const std::string& words);
    /// Waits until abort: what an operation does that can never end.
    void hang();

    Board& board() { return *board_; }
    uint64_t next_step() { return ++step_; }

  private:
    ncclResult_t meet_now(const std::string& name);

    std::shared_ptr<Board> board_;
    std::atomic<ncclResult_t> state_{ncclInProgress};
    std::atomic<bool> aborted_{false}, connected_{false};
    std::atomic<int> running_{0}, outstanding_{0}, captured_{0};
    std::chrono::steady_clock::time_point connected_at_{};
    std::mutex one_operation_;
    uint64_t step_ = 0;
};

}  // namespace fake
