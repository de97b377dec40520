// The collectives' calls: checked at once, enqueued on the stream, or captured.
#include "../fake_enqueue.h"
#include "../handles.h"
#include "collective.h"
#include "group.h"

using namespace fake;

extern "C" int cuCtxGetCurrent(void** context);
extern "C" int cuCtxSetCurrent(void* context);

namespace {

/// NCCL works on the communicator's device, whatever the caller's is.
class OnDevice {
  public:
    explicit OnDevice(void* context) {
        cuCtxGetCurrent(&before_);
        cuCtxSetCurrent(context);
    }
    ~OnDevice() { cuCtxSetCurrent(before_); }

  private:
    void* before_ = nullptr;
};

/// A collective on its way: outstanding until it has run, or captured until its graphs are gone.
struct Enqueued {
    Collective collective;
    bool is_captured;

    Enqueued(const Collective& collective, bool is_captured) : collective(collective), is_captured(is_captured) {
        if (is_captured) collective.communicator->count_captured();
        else collective.communicator->count_enqueued();
    }
    ~Enqueued() {
        if (is_captured) collective.communicator->count_released();
        else collective.communicator->count_done();
    }
};

int run(void* enqueued) { return static_cast<Enqueued*>(enqueued)->collective.run(); }
void drop(void* enqueued) { delete static_cast<Enqueued*>(enqueued); }

ncclResult_t enqueue(const Collective& collective, const char* name, void* stream) {
    Communicator& communicator = *collective.communicator;
    OnDevice guard(communicator.context);
    if (fakeEnqueue(stream, name, run, drop, new Enqueued(collective, fakeCapturing(stream)), 1))
        return failed(ncclUnhandledCudaError, "the stream takes no work");
    return communicator.connect();
}

ncclResult_t call(ncclComm_t comm, const char* name, Kind kind, const void* from, void* to, size_t count, ncclDataType_t type,
                  int root, void* stream) {
    auto communicator = handles<Communicator>().find(comm);
    if (!communicator) return failed(ncclInvalidArgument, "no such communicator");
    Collective collective{communicator, kind, from, to, count, type, root};
    if (ncclResult_t error = communicator->ready()) return error;
    if (ncclResult_t error = collective.check()) return error;
    if (!count) return ncclSuccess;
    return now_or_at_group_end([=] { return enqueue(collective, name, stream); });
}

}  // namespace

API ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                               ncclComm_t comm, void* stream) {
    if (operation != ncclSum) return failed(ncclInvalidArgument, "the fake adds, and nothing else");
    return call(comm, "ncclAllReduce", Kind::AllReduce, from, to, count, type, 0, stream);
}

API ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                               void* stream) {
    return call(comm, "ncclBroadcast", Kind::Broadcast, from, to, count, type, root, stream);
}

API ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm, void* stream) {
    return call(comm, "ncclAllGather", Kind::AllGather, from, to, count, type, 0, stream);
}
