// What is allocated: device memory (host memory in truth), pinned and registered host memory.
#pragma once

#include <memory>
#include <optional>

#include "context.h"

namespace fake {

struct Allocation {
    /// Imported: memory of another process.
    enum Kind { Device, Pinned, Registered, Imported };

    char* base;
    size_t bytes;
    Kind kind;
    /// It came from cuMemAllocAsync, and goes in the order of a stream.
    bool pooled;
    std::weak_ptr<Context> context;
    /// The file that it lies in once other processes may reach it, or -1.
    int file = -1;

    char* end() const { return base + bytes; }
};

constexpr size_t ALIGNMENT = 256;

/// Null if the device has no room for it.
char* allocate_device(Context& context, size_t bytes, bool pooled);
char* allocate_pinned(Context& context, size_t bytes);
CUresult register_host(Context& context, void* base, size_t bytes);
CUresult unregister_host(void* base);
/// How another process finds memory of this one.
struct Export {
    int process, file;
    size_t bytes;
};

/// Makes an allocation that begins there one that other processes may reach; false if there is none.
bool export_device(void* base, Export& found);
/// Null if there is no such memory any more.
char* import_device(Context& context, const Export& there);

/// CUDA_ERROR_INVALID_VALUE if nothing of this kind begins there.
CUresult release(void* base, Allocation::Kind kind);

/// The allocation that holds the address. The address just behind the last byte belongs to it too: it is the
/// beginning of an empty view.
std::optional<Allocation> allocation_of(const void* address);
/// Whether a device may touch the bytes: they lie in one live allocation.
bool is_accessible(const void* address, size_t bytes);
/// Whether a kernel wrote beyond the end of the allocation that holds the address; says so on stderr.
bool is_overrun(const void* address);
/// Whether host memory is known to the driver, so that copies are asynchronous.
bool is_pinned(const void* address);

/// Frees what a context that ends still holds, and tells about it if it was asked to.
void release_all(Context& context);

}  // namespace fake
