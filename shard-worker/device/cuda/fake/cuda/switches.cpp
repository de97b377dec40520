#include "switches.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fake {

namespace {

const char* text(const char* name) {
    const char* value = getenv(name);
    return value && *value ? value : nullptr;
}

/// A test that misspells a switch must not pass for want of a fault.
[[noreturn]] void refuse(const char* name, const char* value) {
    fprintf(stderr, "fake cuda: %s=%s is not understood\n", name, value);
    // Not exit: its handlers may want what the caller holds.
    _exit(2);
}

uint64_t number(const char* name, uint64_t otherwise) {
    const char* value = text(name);
    if (!value) return otherwise;
    char* end;
    uint64_t n = strtoull(value, &end, 10);
    if (end == value) refuse(name, value);
    if (*end == 'K') return n << 10;
    if (*end == 'M') return n << 20;
    if (*end == 'G') return n << 30;
    if (*end) refuse(name, value);
    return n;
}

const Limits& limits_asked_for() {
    const char* value = text("FAKE_CUDA_CAPABILITY");
    int major = 9, minor = 0, length = 0;
    const bool read = !value || (sscanf(value, "%d.%d%n", &major, &minor, &length) == 2 && !value[length]);
    for (const Limits& known : LIMITS)
        if (read && known.major == major && known.minor == minor) return known;
    refuse("FAKE_CUDA_CAPABILITY", value);
}

void read_failure(Switches& switches) {
    const char* value = text("FAKE_CUDA_FAIL");
    if (!value) return;
    char name[128];
    unsigned long long launch;
    int code, length = 0;
    if (sscanf(value, "%127[^:]:%llu:%d%n", name, &launch, &code, &length) != 3 || value[length] || !launch || !code)
        refuse("FAKE_CUDA_FAIL", value);
    switches.fail_kernel = name;
    switches.fail_launch = launch;
    switches.fail_code = CUresult(code);
}

}  // namespace

int device_count() { return int(number("FAKE_CUDA_DEVICES", 1)); }
bool has_peers() { return number("FAKE_CUDA_PEERS", 1) != 0; }

Switches Switches::read() {
    Switches s{};
    s.memory = number("FAKE_CUDA_MEMORY", size_t(2) << 30);
    s.limits = limits_asked_for();
    s.async = number("FAKE_CUDA_ASYNC", 0) != 0;
    s.delay_us = unsigned(number("FAKE_CUDA_DELAY_US", s.async ? 200 : 0));
    read_failure(s);
    s.vanish_after = number("FAKE_CUDA_VANISH", UINT64_MAX);
    s.exhausted_after = number("FAKE_CUDA_OOM_AFTER", SIZE_MAX);
    const char* leaks = text("FAKE_CUDA_LEAKS");
    s.tell_leaks = leaks != nullptr;
    s.fail_on_leaks = leaks && !strcmp(leaks, "fail");
    return s;
}

}  // namespace fake
