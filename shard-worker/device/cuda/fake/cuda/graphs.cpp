// Graphs: captured operations, run in the order in which they were captured.
#include <algorithm>

#include "capture.h"
#include "../handles.h"
#include "streams.h"

using namespace fake;

namespace {

using Operations = std::shared_ptr<const std::vector<Operation>>;

struct Graph {
    Operations operations;
};

struct Executable {
    Operations operations;
};

constexpr unsigned long long AUTO_FREE_ON_LAUNCH = 1, UPLOAD = 2, DEVICE_LAUNCH = 4, USE_NODE_PRIORITY = 8;

/// Those that contradict each other, as cuGraphInstantiateWithFlags documents them.
bool are_valid(unsigned long long flags) {
    if (flags & ~(AUTO_FREE_ON_LAUNCH | UPLOAD | DEVICE_LAUNCH | USE_NODE_PRIORITY)) return false;
    return !(flags & DEVICE_LAUNCH) || !(flags & AUTO_FREE_ON_LAUNCH);
}

CUresult run_all(const std::vector<Operation>& operations) {
    for (const Operation& operation : operations)
        if (CUresult error = operation.run()) return error;
    return CUDA_SUCCESS;
}

}  // namespace

API CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    return in_context([&](Context& context) {
        auto stream = find_stream(context, handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (!graph) return CUDA_ERROR_INVALID_VALUE;
        *graph = nullptr;
        std::vector<Operation> operations;
        if (CUresult error = end_capture(*stream, operations)) return error;
        auto captured = std::make_shared<const std::vector<Operation>>(std::move(operations));
        *graph = handles<Graph>().add<CUgraph>(std::make_shared<Graph>(Graph{captured}));
        return CUDA_SUCCESS;
    });
}

API CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph handle, unsigned long long flags) {
    return in_context([&](Context&) {
        auto graph = handles<Graph>().find(handle);
        if (!graph || !executable || !are_valid(flags)) return CUDA_ERROR_INVALID_VALUE;
        *executable = handles<Executable>().add<CUgraphExec>(std::make_shared<Executable>(Executable{graph->operations}));
        return CUDA_SUCCESS;
    });
}

API CUresult cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
    return in_context([&](Context& context) {
        auto executable = handles<Executable>().find(handle);
        auto stream = find_stream(context, stream_handle);
        if (!executable || !stream) return CUDA_ERROR_INVALID_HANDLE;
        Operations operations = executable->operations;
        bool may_block = std::any_of(operations->begin(), operations->end(), [](auto& operation) { return operation.may_block; });
        return submit(*stream, {[operations] { return run_all(*operations); }, may_block});
    });
}

API CUresult cuGraphUpload(CUgraphExec handle, CUstream stream_handle) {
    return in_context([&](Context& context) {
        if (!handles<Executable>().find(handle) || !find_stream(context, stream_handle)) return CUDA_ERROR_INVALID_HANDLE;
        return CUDA_SUCCESS;
    });
}

/// Tells how many nodes there are; they have no handles.
API CUresult cuGraphGetNodes(CUgraph handle, CUgraphNode* nodes, size_t* count) {
    return in_context([&](Context&) {
        auto graph = handles<Graph>().find(handle);
        if (!graph || !count) return CUDA_ERROR_INVALID_VALUE;
        if (nodes) return CUDA_ERROR_NOT_SUPPORTED;
        *count = graph->operations->size();
        return CUDA_SUCCESS;
    });
}

API CUresult cuGraphExecDestroy(CUgraphExec handle) {
    bool known = handles<Executable>().take(handle) != nullptr;
    return in_context([&](Context&) { return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; });
}

API CUresult cuGraphDestroy(CUgraph handle) {
    bool known = handles<Graph>().take(handle) != nullptr;
    return in_context([&](Context&) { return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; });
}
