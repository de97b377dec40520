// Memory that other devices reach: of this process by peer access, of others by handles.
#include <unistd.h>

#include <cstring>
#include <set>

#include "../handles.h"
#include "capture.h"
#include "context.h"
#include "memory.h"

using namespace fake;

namespace {

constexpr unsigned LAZY_ENABLE_PEER_ACCESS = 1;

/// What a handle holds, behind a word that tells it from any other 64 bytes.
struct Content {
    char word[16];
    Export there;
    size_t zeros[2];
};
static_assert(sizeof(Content) <= sizeof(CUipcMemHandle));

constexpr char WORD[16] = "fake cuda's ipc";

std::mutex enabled_mutex;
/// Which devices reach which.
std::set<std::pair<int, int>>& enabled = *new std::set<std::pair<int, int>>;

}  // namespace

API CUresult cuCtxEnablePeerAccess(CUcontext handle, unsigned flags) {
    return in_context([&](Context& context) {
        auto peer = handles<Context>().find(handle);
        if (!peer || peer.get() == &context) return CUDA_ERROR_INVALID_CONTEXT;
        if (flags) return CUDA_ERROR_INVALID_VALUE;
        if (!has_peers()) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
        std::lock_guard guard(enabled_mutex);
        bool is_new = enabled.insert({context.ordinal, peer->ordinal}).second;
        return is_new ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    });
}

/// Memory of cuMemAllocAsync has handles of another kind.
API CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
    return in_context([&](Context&) {
        if (!handle) return CUDA_ERROR_INVALID_VALUE;
        Content content{};
        memcpy(content.word, WORD, sizeof WORD);
        if (!export_device(reinterpret_cast<void*>(address), content.there)) return CUDA_ERROR_INVALID_VALUE;
        *handle = {};
        memcpy(handle, &content, sizeof content);
        return CUDA_SUCCESS;
    });
}

API CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* address, CUipcMemHandle handle, unsigned flags) {
    return in_context([&](Context& context) {
        if (!address || flags != LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
        if (CUresult error = refuse_unsafe()) return error;
        Content content;
        memcpy(&content, &handle, sizeof content);
        if (memcmp(content.word, WORD, sizeof WORD)) return CUDA_ERROR_INVALID_HANDLE;
        if (content.there.process == getpid()) return CUDA_ERROR_INVALID_CONTEXT;
        if (!has_peers()) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
        char* base = import_device(context, content.there);
        if (!base) return CUDA_ERROR_INVALID_HANDLE;
        *address = reinterpret_cast<CUdeviceptr>(base);
        return CUDA_SUCCESS;
    });
}

API CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
    CUresult state = in_context([&](Context& context) {
        if (CUresult error = refuse_unsafe()) return error;
        context.synchronize();
        return CUDA_SUCCESS;
    });
    if (state && !is_sticky(state)) return state;
    CUresult result = release(reinterpret_cast<void*>(address), Allocation::Imported);
    return state ? state : result;
}
