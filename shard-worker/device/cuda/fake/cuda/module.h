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
    /// Dynamic shared memory that a launch may ask for.
    std::atomic<int> max_shared{int(SHARED_BYTES)};

    Function(const Kernel& kernel, std::weak_ptr<Context> context) : kernel(kernel), context(std::move(context)) {}
};

struct Module {
    const std::weak_ptr<Context> context;
    std::mutex mutex;
    std::map<std::string, CUfunction> functions;

    explicit Module(std::weak_ptr<Context> context) : context(std::move(context)) {}
};

}  // namespace fake
