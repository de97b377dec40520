// What an H100 SXM allows, as its device attributes and the CUDA programming guide give it (compute capability 9.0).
#pragma once

#include <cstddef>

namespace fake {

constexpr unsigned WARP_SIZE = 32;
constexpr unsigned MAX_BLOCK = 1024;
constexpr unsigned MAX_BLOCK_Z = 64;
constexpr unsigned MAX_GRID_X = 0x7fffffff;
constexpr unsigned MAX_GRID_YZ = 65535;
constexpr unsigned MULTIPROCESSORS = 132;
constexpr unsigned MAX_THREADS_OF_MULTIPROCESSOR = 2048;
constexpr unsigned MAX_BLOCKS_OF_MULTIPROCESSOR = 32;
constexpr unsigned REGISTERS = 65536;
constexpr size_t L2_BYTES = 50 * 1024 * 1024;
/// Shared memory of a block: what every launch may have, and what a function may be raised to.
constexpr size_t SHARED_BYTES = 48 * 1024;
constexpr size_t SHARED_BYTES_OPTIN = 227 * 1024;
constexpr size_t SHARED_BYTES_OF_MULTIPROCESSOR = 228 * 1024;
constexpr size_t SHARED_BYTES_RESERVED = 1024;

}  // namespace fake
