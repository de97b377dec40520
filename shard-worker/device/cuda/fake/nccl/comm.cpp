// What is asked of a communicator, and how it ends.
#include <thread>

#include "../fake_enqueue.h"
#include "../handles.h"
#include "communicator.h"

using namespace fake;

namespace {

ncclResult_t unknown() { return failed(ncclInvalidArgument, "no such communicator"); }

/// Waits for what was enqueued. A peer that is gone keeps it from ever ending; then only abort helps, as with NCCL.
void flush(Communicator& communicator) {
    while (!communicator.is_idle() && !communicator.is_aborted() && !fakeError())
        std::this_thread::sleep_for(std::chrono::microseconds(100));
}

ncclResult_t give(ncclComm_t comm, int* out, const int Communicator::*field) {
    auto communicator = handles<Communicator>().find(comm);
    if (!communicator || !out) return unknown();
    *out = communicator.get()->*field;
    return ncclSuccess;
}

}  // namespace

API ncclResult_t ncclCommCount(ncclComm_t comm, int* count) { return give(comm, count, &Communicator::ranks); }
API ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) { return give(comm, rank, &Communicator::rank); }
API ncclResult_t ncclCommCuDevice(ncclComm_t comm, int* device) { return give(comm, device, &Communicator::device); }

API ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
    auto communicator = handles<Communicator>().find(comm);
    if (!communicator || !error) return unknown();
    *error = communicator->state();
    return ncclSuccess;
}

API ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    auto communicator = handles<Communicator>().find(comm);
    if (!communicator) return unknown();
    if (ncclResult_t error = communicator->ready()) return error;
    flush(*communicator);
    return ncclSuccess;
}

API ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    auto communicator = handles<Communicator>().find(comm);
    if (!communicator) return unknown();
    flush(*communicator);
    communicator->wait_for_graphs();
    communicator->leave();
    handles<Communicator>().take(comm);
    return ncclSuccess;
}

API ncclResult_t ncclCommAbort(ncclComm_t comm) {
    auto communicator = handles<Communicator>().take(comm);
    if (!communicator) return unknown();
    communicator->stop();
    communicator->wait_for_graphs();
    communicator->leave();
    return ncclSuccess;
}

/// Ends what runs and refuses more; the communicator stays to be destroyed.
API ncclResult_t ncclCommRevoke(ncclComm_t comm, int) {
    auto communicator = handles<Communicator>().find(comm);
    if (!communicator) return unknown();
    communicator->stop();
    communicator->leave();
    return ncclSuccess;
}

API const char* ncclGetLastError(ncclComm_t) {
    thread_local std::string words;
    words = last_error();
    return words.c_str();
}

API const char* ncclGetErrorString(ncclResult_t result) {
    switch (result) {
        case ncclSuccess: return "no error";
        case ncclUnhandledCudaError: return "unhandled cuda error";
        case ncclSystemError: return "unhandled system error";
        case ncclInternalError: return "internal error";
        case ncclInvalidArgument: return "invalid argument";
        case ncclInvalidUsage: return "invalid usage";
        case ncclRemoteError: return "remote process exited or there was a network error";
        case ncclInProgress: return "NCCL operation in progress";
    }
    return "unknown result code";
}
