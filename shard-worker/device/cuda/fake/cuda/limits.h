// What devices allow, as their attributes and the CUDA programming guide's table of compute capabilities give it.
#pragma once

#include <cstddef>

namespace fake {

constexpr unsigned WARP_SIZE = 32;
constexpr unsigned MAX_BLOCK = 1024;
constexpr unsigned MAX_BLOCK_Z = 64;
constexpr unsigned MAX_GRID_X = 0x7fffffff;
constexpr unsigned MAX_GRID_YZ = 65535;
constexpr unsigned REGISTERS = 65536;
constexpr size_t L2_BYTES = 50 * 1024 * 1024;
/// Shared memory that every block may have, and what the device keeps of each block's.
constexpr size_t SHARED_BYTES = 48 * 1024;
constexpr size_t SHARED_BYTES_RESERVED = 1024;

/// What depends on the compute capability.
struct Limits {
    int major, minor;
    unsigned multiprocessors, threads_of_multiprocessor, blocks_of_multiprocessor;
    size_t shared_of_multiprocessor;

    /// What a function may be raised to.
    size_t shared_of_block() const { return shared_of_multiprocessor - SHARED_BYTES_RESERVED; }
};

/// An A100, an A10, an RTX 6000 Ada, an H100, a B200 and an RTX 5090.
constexpr Limits LIMITS[] = {
    {8, 0, 108, 2048, 32, 164 * 1024}, {8, 6, 72, 1536, 16, 100 * 1024},   {8, 9, 142, 1536, 24, 100 * 1024},
    {9, 0, 132, 2048, 32, 228 * 1024}, {10, 0, 148, 2048, 32, 228 * 1024}, {12, 0, 170, 1536, 24, 100 * 1024},
};

}  // namespace fake
