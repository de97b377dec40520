#include "module.h"

#include <cctype>
#include <cstring>
#include <fstream>
#include <sstream>

#include "capture.h"
#include "../handles.h"

using namespace fake;

namespace {

/// A cubin, a fat binary, or the text of PTX. Anything else is what CUDA calls an invalid image.
bool is_image(const void* image) {
    const char* bytes = static_cast<const char*>(image);
    if (!memcmp(bytes,
                "\x7f"
                "ELF",
                4))
        return true;
    if (!memcmp(bytes, "\x50\xed\x55\xba", 4)) return true;
    return strstr(bytes, ".version") != nullptr;
}

/// What an image was made for, where it tells: "sm_89" or "sm_90a" near its beginning. A real cubin tells it elsewhere.
struct Target {
    int number = 0;
    char letter = 0;

    explicit Target(const char* image) {
        constexpr size_t BEGINNING = 256;
        const std::string beginning(image, strnlen(image, BEGINNING));
        const size_t at = beginning.find("sm_");
        if (at != std::string::npos) sscanf(beginning.c_str() + at, "sm_%d%c", &number, &letter);
    }
};

/// Whether the device runs an image. A cubin is for devices of the same major version that are no older, PTX for all that
/// are no older, and what ends with a letter for one device alone. What does not tell is taken to be right.
bool is_for(const Limits& limits, const Target& target, const char* image) {
    const auto [number, letter] = target;
    if (!number) return true;
    const int major = number / 10, minor = number % 10;
    const bool same = major == limits.major && minor == limits.minor, older = major == limits.major && minor <= limits.minor;
    if (isalpha(static_cast<unsigned char>(letter))) return same;
    return older || (image[0] != 0x7f && major < limits.major);
}

CUresult load(Context& context, CUmodule* module, const void* image) {
    if (!module || !image) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult error = refuse_unsafe()) return error;
    if (!is_image(image)) return CUDA_ERROR_INVALID_IMAGE;
    const Limits& limits = context.switches.limits;
    const Target target(static_cast<const char*>(image));
    if (!is_for(limits, target, static_cast<const char*>(image))) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    const int ptx_version = target.number ? target.number : limits.major * 10 + limits.minor;
    *module = handles<Module>().add<CUmodule>(std::make_shared<Module>(context.weak_from_this(), ptx_version));
    return CUDA_SUCCESS;
}

}  // namespace

API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    return in_context([&](Context& context) { return load(context, module, image); });
}

API CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, int*, void**) {
    return cuModuleLoadData(module, image);
}

API CUresult cuModuleLoadFatBinary(CUmodule* module, const void* image) { return cuModuleLoadData(module, image); }

API CUresult cuModuleLoad(CUmodule* module, const char* path) {
    return in_context([&](Context& context) {
        std::ifstream file(path, std::ios::binary);
        if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
        std::ostringstream image;
        image << file.rdbuf();
        return load(context, module, image.str().c_str());
    });
}

API CUresult cuModuleUnload(CUmodule module) {
    return in_context([&](Context&) {
        if (CUresult error = refuse_unsafe()) return error;
        auto taken = handles<Module>().take(module);
        if (!taken) return CUDA_ERROR_INVALID_HANDLE;
        for (auto& [name, function] : taken->functions) handles<Function>().take(function);
        return CUDA_SUCCESS;
    });
}

API CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    return in_context([&](Context&) {
        if (!function || !name) return CUDA_ERROR_INVALID_VALUE;
        auto found = handles<Module>().find(module);
        if (!found) return CUDA_ERROR_INVALID_HANDLE;
        const Kernel* kernel = find_kernel(name);
        if (!kernel) return CUDA_ERROR_NOT_FOUND;
        std::lock_guard guard(found->mutex);
        CUfunction& known = found->functions[name];
        if (!known) known = handles<Function>().add<CUfunction>(std::make_shared<Function>(*kernel, found->context, found->ptx_version));
        *function = known;
        return CUDA_SUCCESS;
    });
}

/// Kernels have no global variables here.
API CUresult cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, CUmodule, const char*) { return CUDA_ERROR_NOT_FOUND; }
