// Facts about the kernels as a whole: all in one program, as the fake driver and a device have them.
#include <set>

#include "harness.h"

namespace whole {
namespace {
#include "../kernels/all.cu"

struct Kernel {
    const char* name;
    const void* code;
};

#define KERNEL(name) {#name, reinterpret_cast<const void*>(name)},
const Kernel KERNELS[] = {
#include "../kernels/kernels.def"
};
#undef KERNEL
}  // namespace
}  // namespace whole

int main() {
    test::fact("every_kernel_named_is_there_once", [] {
        std::set<std::string> names;
        std::set<const void*> codes;
        for (const whole::Kernel& kernel : whole::KERNELS)
            test::expect(names.insert(kernel.name).second && codes.insert(kernel.code).second, "%s is there twice", kernel.name);
        test::expect(!names.empty(), "no kernel");
    });
    return test::summary();
}
