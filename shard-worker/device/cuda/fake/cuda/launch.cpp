// Launches: what CUDA refuses at the call, and what a kernel does when its turn comes.
#include <algorithm>
#include <cstring>

#include "capture.h"
#include "../handles.h"
#include "memory.h"
#include "module.h"
#include "streams.h"

using namespace fake;

namespace {

/// Code for older devices has no wait for the kernels ahead: there is no such instruction.
constexpr int WAITING_PTX = 90;

struct Launch {
    std::shared_ptr<Function> function;
    Dim grid, block;
    size_t shared_bytes;
    /// Launched so that it may begin before the kernel ahead has ended.
    bool overlaps = false;
    std::vector<char> values;
    std::vector<size_t> offsets;

    /// Copies the arguments, since the caller's are gone when the kernel runs.
    void keep(void* const* arguments) {
        for (const Parameter& parameter : function->kernel.parameters) {
            // Arguments of a type whose alignment is larger than 16 don't exist.
            offsets.push_back((values.size() + 15) / 16 * 16);
            values.resize(offsets.back() + parameter.bytes);
            memcpy(values.data() + offsets.back(), arguments[offsets.size() - 1], parameter.bytes);
        }
    }

    std::vector<void*> arguments() {
        std::vector<void*> pointers;
        for (size_t offset : offsets) pointers.push_back(values.data() + offset);
        return pointers;
    }

    /// The device addresses among the arguments.
    std::vector<const char*> addresses() const {
        std::vector<const char*> found;
        for (size_t i = 0; i < offsets.size(); i++) {
            if (!function->kernel.parameters[i].is_pointer) continue;
            const char* address;
            memcpy(&address, values.data() + offsets[i], sizeof address);
            // A kernel may take a null pointer for something that is not there.
            if (address) found.push_back(address);
        }
        return found;
    }

    CUresult run() {
        const Kernel& kernel = function->kernel;
        auto context = function->context.lock();
        if (!context) return CUDA_ERROR_INVALID_CONTEXT;
        if (CUresult error = context->count_launch(kernel.name)) return error;
        for (const char* address : addresses())
            if (!allocation_of(address)) {
                fprintf(stderr, "fake cuda: %s: an argument, %p, is no memory of a device\n", kernel.name,
                        static_cast<const void*>(address));
                return CUDA_ERROR_ILLEGAL_ADDRESS;
            }
        // Here all run one after the other; on a device these would meet what is half written.
        const bool waited = kernel.run(arguments().data(), grid, block, shared_bytes) && function->ptx_version >= WAITING_PTX;
        if (overlaps && !waited) {
            fprintf(stderr, "fake cuda: %s: has threads that do not wait for the kernels ahead, and was launched as if they did\n", kernel.name);
            return CUDA_ERROR_LAUNCH_FAILED;
        }
        for (const char* address : addresses())
            if (is_overrun(address)) {
                fprintf(stderr, "fake cuda: %s: wrote outside of an argument's memory\n", kernel.name);
                return CUDA_ERROR_ILLEGAL_ADDRESS;
            }
        return CUDA_SUCCESS;
    }
};

CUresult check_dimensions(const Launch& launch) {
    auto [grid, block] = std::pair(launch.grid, launch.block);
    if (!grid.count() || grid.x > MAX_GRID_X || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ) return CUDA_ERROR_INVALID_VALUE;
    if (!block.count() || block.count() > MAX_BLOCK || block.z > MAX_BLOCK_Z) return CUDA_ERROR_INVALID_VALUE;
    if (launch.shared_bytes > size_t(launch.function->max_shared)) return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult launch(CUfunction handle, Dim grid, Dim block, size_t shared_bytes, CUstream stream_handle, void** arguments,
                void** extra, bool overlaps = false) {
    return in_context([&](Context& context) {
        auto function = handles<Function>().find(handle);
        auto stream = find_stream(context, stream_handle);
        if (!function || !stream) return CUDA_ERROR_INVALID_HANDLE;
        if (function->context.lock().get() != &context) return CUDA_ERROR_INVALID_CONTEXT;
        auto launch = std::make_shared<Launch>();
        launch->function = function;
        launch->grid = grid, launch->block = block, launch->shared_bytes = shared_bytes, launch->overlaps = overlaps;
        if (CUresult error = check_dimensions(*launch)) return error;
        if (extra) return CUDA_ERROR_NOT_SUPPORTED;
        if (!arguments && !function->kernel.parameters.empty()) return CUDA_ERROR_INVALID_VALUE;
        launch->keep(arguments);
        if (CUresult error = context.refuse_launch(function->kernel.name)) return error;
        return submit(*stream, {[launch] { return launch->run(); }, function->kernel.waits});
    });
}

constexpr unsigned COOPERATIVE = 2, CLUSTER = 4, PROGRAMMATIC_STREAM_SERIALIZATION = 6;
/// None, the window of the L2, how to wait, which cluster comes first, the priority, the domains of memory.
constexpr unsigned HINTS[] = {0, 1, 3, 5, 8, 9, 10};

/// Kernels that meet across blocks can't run here, and what an attribute that is not known would change can't be told.
bool is_taken(const CUlaunchAttribute& attribute) {
    auto& cluster = attribute.value.cluster;
    if (attribute.id == CLUSTER) return size_t(cluster.x) * cluster.y * cluster.z <= 1;
    if (attribute.id == COOPERATIVE) return !attribute.value.number;
    return attribute.id == PROGRAMMATIC_STREAM_SERIALIZATION || std::ranges::find(HINTS, attribute.id) != std::end(HINTS);
}

}  // namespace

API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                            unsigned shared, CUstream stream, void** arguments, void** extra) {
    return launch(function, {gx, gy, gz}, {bx, by, bz}, shared, stream, arguments, extra);
}

API CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments, void** extra) {
    if (!config || (config->numAttrs && !config->attrs)) return CUDA_ERROR_INVALID_VALUE;
    bool overlaps = false;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const CUlaunchAttribute& attribute = config->attrs[i];
        if (!is_taken(attribute)) return CUDA_ERROR_NOT_SUPPORTED;
        overlaps |= attribute.id == PROGRAMMATIC_STREAM_SERIALIZATION && attribute.value.number;
    }
    return launch(function, {config->gridDimX, config->gridDimY, config->gridDimZ},
                  {config->blockDimX, config->blockDimY, config->blockDimZ}, config->sharedMemBytes, config->hStream, arguments,
                  extra, overlaps);
}

API CUresult cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                                       void**) {
    return CUDA_ERROR_NOT_SUPPORTED;
}

API CUresult cuLaunchHostFunc(CUstream handle, void (*function)(void*), void* argument) {
    return in_context([&](Context& context) {
        auto stream = find_stream(context, handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (!function) return CUDA_ERROR_INVALID_VALUE;
        // It may wait for the host, so it must not run in the host's call.
        return submit(*stream, {[=] {
                                    function(argument);
                                    return CUDA_SUCCESS;
                                },
                                true});
    });
}
