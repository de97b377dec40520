#include "group.h"

#include <utility>
#include <vector>

#include "communicator.h"

namespace fake {

namespace {

thread_local int depth = 0;
thread_local std::vector<std::function<ncclResult_t()>> calls;

}  // namespace

ncclResult_t now_or_at_group_end(std::function<ncclResult_t()> call) {
    if (!depth) return call();
    calls.push_back(std::move(call));
    return ncclSuccess;
}

}  // namespace fake

using namespace fake;

API ncclResult_t ncclGroupStart() {
    depth++;
    return ncclSuccess;
}

/// The first error, or that something is in progress.
API ncclResult_t ncclGroupEnd() {
    if (!depth) return failed(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    if (--depth) return ncclSuccess;
    ncclResult_t error = ncclSuccess, progress = ncclSuccess;
    for (auto& call : std::exchange(calls, {})) {
        ncclResult_t result = call();
        if (result == ncclInProgress)
            progress = result;
        else if (!error)
            error = result;
    }
    return error ? error : progress;
}
