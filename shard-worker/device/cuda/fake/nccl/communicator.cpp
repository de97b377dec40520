#include "communicator.h"

#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "../fake_enqueue.h"

extern "C" int cuCtxSetCurrent(void* context);

namespace fake {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

/// How long the first collective connects.
constexpr auto CONNECTING = 500us;

std::mutex words_mutex;
std::string& words_of_last_error = *new std::string;

bool is_on(const char* name) {
    const char* value = getenv(name);
    return value && *value && *value != '0';
}

/// First a short spin, since peers are often there already, then less and less of a processor.
void pause(unsigned turn) {
    if (turn < 64)
        sched_yield();
    else
        std::this_thread::sleep_for(turn < 512 ? 20us : 200us);
}

}  // namespace

ncclResult_t failed(ncclResult_t result, const std::string& words) {
    std::lock_guard guard(words_mutex);
    words_of_last_error = words;
    return result;
}

std::string last_error() {
    std::lock_guard guard(words_mutex);
    return words_of_last_error;
}

void Communicator::meet(const std::string& name) {
    running_++;
    std::thread([self = shared_from_this(), name] {
        cuCtxSetCurrent(self->context);
        ncclResult_t result = self->meet_now(name);
        self->state_ = result;
        self->running_--;
    }).detach();
}

ncclResult_t Communicator::meet_now(const std::string& name) {
    auto board = Board::open(name, ranks, rank);
    if (!board) return failed(ncclSystemError, "shared memory can't be had");
    if (!board->sit(device))
        return failed(ncclInvalidUsage, "the seat of this rank is taken, or ranks disagree about their number");
    board_ = board;
    for (int other = 0; other < ranks; other++)
        if (!wait_for(other, [&] { return board->seat(other).taken != 0; })) {
            board->remove_name();
            return failed(ncclInternalError, "aborted while ranks met");
        }
    if (!wait_for(rank, [&] { return board->shared().seated == uint32_t(ranks); })) return ncclInternalError;
    for (int other = 0; other < ranks && is_on("FAKE_NCCL_DISTINCT_DEVICES"); other++)
        if (other != rank && board->seat(other).device == device) return failed(ncclInvalidUsage, "Duplicate GPU detected");
    return ncclSuccess;
}

ncclResult_t Communicator::state() {
    if (state_ != ncclSuccess) return state_;
    return connected_ && Clock::now() < connected_at_ ? ncclInProgress : ncclSuccess;
}

ncclResult_t Communicator::ready() {
    if (aborted_) return failed(ncclInvalidUsage, "the communicator was revoked");
    ncclResult_t now = state();
    if (now == ncclInProgress && blocking) return settle();
    if (now == ncclInProgress)
        return failed(ncclInvalidArgument, "the communicator was used before the operation before it returned ncclSuccess");
    return now;
}

ncclResult_t Communicator::connect() {
    if (connected_) return ncclSuccess;
    connected_at_ = Clock::now() + CONNECTING;
    connected_ = true;
    return blocking ? settle() : ncclInProgress;
}

ncclResult_t Communicator::settle() {
    for (unsigned turn = 0; state() == ncclInProgress; turn++) pause(turn);
    return state();
}

void Communicator::stop() {
    aborted_ = true;
    for (unsigned turn = 0; running_; turn++) pause(turn);
}

void Communicator::wait_for_graphs() {
    for (unsigned turn = 0; captured_; turn++) pause(turn);
}

void Communicator::leave() {
    if (board_) board_->leave();
}

void Communicator::operate(const std::function<void()>& body) {
    running_++;
    {
        std::lock_guard guard(one_operation_);
        if (!aborted_) body();
    }
    running_--;
}

bool Communicator::wait_for(int other, const std::function<bool()>& done) {
    bool told = false;
    for (unsigned turn = 0; !done(); turn++) {
        if (aborted_ || fakeError()) return false;
        pause(turn);
        if (told || turn % 64 != 63 || board_->is_present(other) || done()) continue;
        told = true;
        if (!is_on("FAKE_NCCL_HANG")) report(ncclRemoteError, "rank " + std::to_string(other) + " is gone");
    }
    return true;
}

void Communicator::report(ncclResult_t error, const std::string& words) {
    fprintf(stderr, "fake nccl: rank %d of %d: %s\n", rank, ranks, words.c_str());
    state_ = failed(error, words);
}

void Communicator::hang() {
    for (unsigned turn = 0; !aborted_ && !fakeError(); turn++) pause(turn);
}

}  // namespace fake
