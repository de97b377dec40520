// How communicators come to be: unique ids and ranks that meet.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <random>

#include "../handles.h"
#include "communicator.h"
#include "group.h"

using namespace fake;

extern "C" int cuCtxGetCurrent(void** context);
extern "C" int cuCtxGetDevice(int* device);

namespace {

/// Every id begins so; what follows makes it unlike any other.
constexpr char PREFIX[] = "/fake-nccl-";

bool is_id(const ncclUniqueId& id) {
    return !strncmp(id.internal, PREFIX, sizeof PREFIX - 1) && memchr(id.internal, 0, sizeof id.internal);
}

ncclResult_t check(const ncclConfig_t* config, bool& blocking) {
    blocking = true;
    if (!config) return ncclSuccess;
    if (config->magic != NCCL_MAGIC || config->size < sizeof(ncclConfig_t))
        return failed(ncclInvalidArgument, "the config was not initialised");
    // Without its version a library can't tell which fields a config has.
    if (config->version < 21400 || config->version / 10000 != NCCL_VERSION / 10000)
        return failed(ncclInvalidArgument, "the config is of no version that NCCL has");
    if (config->blocking == NCCL_UNDEFINED) return ncclSuccess;
    if (config->blocking != 0 && config->blocking != 1) return failed(ncclInvalidArgument, "blocking is neither 0 nor 1");
    blocking = config->blocking == 1;
    return ncclSuccess;
}

}  // namespace

API ncclResult_t ncclGetVersion(int* version) {
    if (!version) return ncclInvalidArgument;
    *version = NCCL_VERSION;
    return ncclSuccess;
}

API ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    if (!id) return ncclInvalidArgument;
    std::random_device random;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%s%d-%08x%08x%08x%08x", PREFIX, int(getpid()), random(), random(), random(),
             random());
    return ncclSuccess;
}

API ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
    bool blocking;
    if (ncclResult_t error = check(config, blocking)) return error;
    if (!comm || ranks < 1 || ranks > MAX_RANKS || rank < 0 || rank >= ranks) return failed(ncclInvalidArgument, "no such rank");
    if (!is_id(id)) return failed(ncclInvalidArgument, "no unique id of this library");
    void* context = nullptr;
    int device;
    if (cuCtxGetCurrent(&context) || cuCtxGetDevice(&device))
        return failed(ncclUnhandledCudaError, "the thread has no context in good order");
    auto communicator = std::make_shared<Communicator>(ranks, rank, blocking, device, context);
    *comm = handles<Communicator>().add<ncclComm_t>(communicator);
    communicator->meet(id.internal);
    if (!blocking) return ncclInProgress;
    // In a group the other ranks may be this thread's next calls.
    return now_or_at_group_end([communicator] { return communicator->settle(); });
}

API ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
    return ncclCommInitRankConfig(comm, ranks, id, rank, nullptr);
}
