// Modules and functions. A module's image names an architecture at most: the code is the compiled-in table's.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "context.h"
#include "kernels.h"
#include "limits.h"

namespace fake {

struct Function {
    const Kernel& kernel;
    const std::weak_ptr<Context> context;
    /// The compute capability that its PTX was made for, as 90.
    const int ptx_version;
    /// Dynamic shared memory that a launch may ask for.
    std::atomic<int> max_shared{int(SHARED_BYTES)};

    Function(const Kernel& kernel, std::weak_ptr<Context> context, int ptx_version)
        : kernel(kernel), context(std::move(context)), ptx_version(ptx_version) {}
};

struct Module {
    const std::weak_ptr<Context> context;
    const int ptx_version;
    std::mutex mutex;
    std::map<std::string, CUfunction> functions;

    Module(std::weak_ptr<Context> context, int ptx_version) : context(std::move(context)), ptx_version(ptx_version) {}
};

}  // namespace fake
