#include "kernels.h"

#include <type_traits>
#include <unordered_map>
#include <utility>

#include "../../shim/cpu_cuda.h"

namespace {
#include "../../kernels/all.cu"
#include "test_kernels.cuh"
}  // namespace

namespace fake {

namespace {

template <auto function, class... Arguments, size_t... I>
bool run(void (*)(Arguments...), void* const* arguments, Dim grid, Dim block, size_t shared, std::index_sequence<I...>) {
    return cpucuda::launch({grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared,
                           [=] { function(*static_cast<std::remove_cv_t<Arguments>*>(arguments[I])...); });
}

template <class... Arguments>
std::vector<Parameter> parameters(void (*)(Arguments...)) {
    return {Parameter{sizeof(Arguments), std::is_pointer_v<Arguments>}...};
}

template <class... Arguments>
constexpr auto indices(void (*)(Arguments...)) {
    return std::index_sequence_for<Arguments...>{};
}

template <auto function>
Kernel kernel(const char* name) {
    // Sums over ranks are the only kernels that do.
    bool waits = std::string_view(name).substr(0, 14) == "sum_over_ranks";
    return {name, parameters(function), waits, [](void* const* arguments, Dim grid, Dim block, size_t shared) {
                return run<function>(function, arguments, grid, block, shared, indices(function));
            }};
}

const std::vector<Kernel>& all() {
#define KERNEL(name) kernel<&name>(#name),
    static const auto& kernels = *new std::vector<Kernel>{
#if __has_include("../../kernels/kernels.def")
#include "../../kernels/kernels.def"
#endif
#include "test_kernels.def"
    };
#undef KERNEL
    return kernels;
}

}  // namespace

const Kernel* find_kernel(std::string_view name) {
    static const auto& by_name = *[] {
        auto* map = new std::unordered_map<std::string_view, const Kernel*>;
        for (const Kernel& kernel : all()) map->emplace(kernel.name, &kernel);
        return map;
    }();
    auto found = by_name.find(name);
    return found == by_name.end() ? nullptr : found->second;
}

}  // namespace fake
