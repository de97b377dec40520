// The kernels that exist: those of ../kernels, compiled for the CPU, found by name.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace fake {

struct Dim {
    unsigned x, y, z;
    size_t count() const { return size_t(x) * y * z; }
};

struct Parameter {
    size_t bytes;
    bool is_pointer;
};

struct Kernel {
    const char* name;
    std::vector<Parameter> parameters;
    /// It waits for kernels of other devices.
    bool waits;
    /// Runs it; `arguments` point at the values, as those of cuLaunchKernel do. Gives whether all threads waited for the
    /// kernels ahead.
    bool (*run)(void* const* arguments, Dim grid, Dim block, size_t shared_bytes);
};

/// Null if there is none of this name.
const Kernel* find_kernel(std::string_view name);

}  // namespace fake
