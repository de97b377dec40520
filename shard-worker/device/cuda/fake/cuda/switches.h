// The environment's switches. They are read when a device's context is made, so that a process may set them anew
// between one life of a device and the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "limits.h"
#include "types.h"

namespace fake {

/// Number of devices of this machine: FAKE_CUDA_DEVICES, 1 if unset.
int device_count();
/// FAKE_CUDA_PEERS: whether devices reach each other's memory; they do if it is unset.
bool has_peers();

struct Switches {
    /// FAKE_CUDA_MEMORY: bytes of a device; K, M and G may follow the number.
    size_t memory;
    /// FAKE_CUDA_CAPABILITY: what the device allows; 9.0 if unset.
    Limits limits;
    /// FAKE_CUDA_ASYNC: every stream is a thread with a queue.
    bool async;
    /// FAKE_CUDA_DELAY_US: how long an idle stream that nobody waits for lets the host run ahead.
    unsigned delay_us;
    /// FAKE_CUDA_FAIL=kernel:N:CODE: the Nth launch of a kernel fails.
    std::string fail_kernel;
    uint64_t fail_launch;
    CUresult fail_code;
    /// FAKE_CUDA_VANISH=N: the device is gone once N kernels have run.
    uint64_t vanish_after;
    /// FAKE_CUDA_OOM_AFTER: no more than so many bytes are ever handed out.
    size_t exhausted_after;
    /// FAKE_CUDA_LEAKS: what is still allocated is told; "fail" ends the process with status 86.
    bool tell_leaks, fail_on_leaks;

    static Switches read();
};

}  // namespace fake
