#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

namespace fake {

namespace {

/// What memory holds before it is written and after it is freed: NaN in every floating-point format.
constexpr int POISON = 0xff;
/// Room around an allocation that stays poisoned, or was written by mistake.
constexpr size_t GUARD = 256;
/// What a process may map.
constexpr size_t PAGE = 4096;
/// Freed memory stays poisoned for a while before the host gets it back.
constexpr size_t QUARANTINE = size_t(64) << 20;

struct Freed {
    char* block;
    size_t bytes;
};

struct Table {
    std::mutex mutex;
    std::map<const char*, Allocation> live;
    std::deque<Freed> quarantine;
    size_t quarantined = 0;
};

Table& table() {
    static auto& table = *new Table;
    return table;
}

size_t round_up(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/// An allocation with what guards it, in whole pages so that it can be put into a file.
size_t block_bytes(size_t bytes) { return (round_up(bytes) + 2 * GUARD + PAGE - 1) / PAGE * PAGE; }

char* allocate(Context& context, size_t bytes, Allocation::Kind kind, bool pooled) {
    size_t whole = block_bytes(bytes);
    char* block = static_cast<char*>(aligned_alloc(PAGE, whole));
    if (!block) return nullptr;
    memset(block, POISON, whole);
    Allocation allocation{block + GUARD, bytes, kind, pooled, context.weak_from_this()};
    std::lock_guard guard(table().mutex);
    table().live.emplace(allocation.base, allocation);
    return allocation.base;
}

/// Who has mapped exported memory sees the poison as well; this process parts with its file.
void withdraw(const Allocation& allocation, size_t whole) {
    mmap(allocation.base - GUARD, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(allocation.base - GUARD, POISON, whole);
    close(allocation.file);
}

/// The table's mutex is held.
void retire(const Allocation& allocation) {
    Table& t = table();
    size_t whole = block_bytes(allocation.bytes);
    if (allocation.kind == Allocation::Imported) {
        munmap(allocation.base - GUARD, whole);
        return;
    }
    memset(allocation.base - GUARD, POISON, whole);
    if (allocation.file >= 0) withdraw(allocation, whole);
    t.quarantine.push_back({allocation.base - GUARD, whole});
    t.quarantined += whole;
    while (t.quarantined > QUARANTINE) {
        t.quarantined -= t.quarantine.front().bytes;
        free(t.quarantine.front().block);
        t.quarantine.pop_front();
    }
}

/// The table's mutex is held.
const Allocation* holder(const char* address) {
    auto& live = table().live;
    auto after = live.upper_bound(address);
    if (after == live.begin()) return nullptr;
    const Allocation& before = std::prev(after)->second;
    return address <= before.end() ? &before : nullptr;
}

bool is_intact(const Allocation& allocation) {
    if (allocation.kind == Allocation::Registered) return true;
    const char* end = allocation.base + round_up(allocation.bytes) + GUARD;
    for (const char* p = allocation.end(); p < end; p++)
        if (*p != char(POISON)) return false;
    for (const char* p = allocation.base - GUARD; p < allocation.base; p++)
        if (*p != char(POISON)) return false;
    return true;
}

bool tell_overrun(const Allocation& allocation) {
    if (is_intact(allocation)) return false;
    fprintf(stderr, "fake cuda: memory around an allocation of %zu bytes at %p was written\n", allocation.bytes,
            static_cast<const void*>(allocation.base));
    return true;
}

/// Takes an allocation out of the table; the mutex is held. Its context gets the bytes back.
void remove(std::map<const char*, Allocation>::iterator found) {
    Allocation allocation = found->second;
    table().live.erase(found);
    auto context = allocation.context.lock();
    if (tell_overrun(allocation) && context) context->fail(CUDA_ERROR_ILLEGAL_ADDRESS);
    if (context && allocation.kind == Allocation::Device) context->give_back(round_up(allocation.bytes));
    if (allocation.kind != Allocation::Registered) retire(allocation);
}

}  // namespace

char* allocate_device(Context& context, size_t bytes, bool pooled) {
    if (bytes > context.switches.memory || !context.take(round_up(bytes))) return nullptr;
    char* base = allocate(context, bytes, Allocation::Device, pooled);
    if (!base) context.give_back(round_up(bytes));
    return base;
}

char* allocate_pinned(Context& context, size_t bytes) { return allocate(context, bytes, Allocation::Pinned, false); }

bool export_device(void* base, Export& found) {
    std::lock_guard guard(table().mutex);
    auto at = table().live.find(static_cast<char*>(base));
    if (at == table().live.end() || at->second.kind != Allocation::Device || at->second.pooled) return false;
    Allocation& allocation = at->second;
    if (allocation.file < 0) {
        size_t whole = block_bytes(allocation.bytes);
        int file = memfd_create("fake-cuda", MFD_CLOEXEC);
        char* block = allocation.base - GUARD;
        bool copied = file >= 0 && write(file, block, whole) == ssize_t(whole);
        if (!copied || mmap(block, whole, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
            if (file >= 0) close(file);
            return false;
        }
        allocation.file = file;
    }
    found = {getpid(), allocation.file, allocation.bytes};
    return true;
}

char* import_device(Context& context, const Export& there) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", there.process, there.file);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return nullptr;
    size_t whole = block_bytes(there.bytes);
    void* block = MAP_FAILED;
    // Another file may have its number by now.
    if (lseek(file, 0, SEEK_END) == off_t(whole)) block = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (block == MAP_FAILED) return nullptr;
    Allocation allocation{static_cast<char*>(block) + GUARD, there.bytes, Allocation::Imported, false, context.weak_from_this()};
    std::lock_guard guard(table().mutex);
    table().live.emplace(allocation.base, allocation);
    return allocation.base;
}

CUresult register_host(Context& context, void* base, size_t bytes) {
    std::lock_guard guard(table().mutex);
    char* start = static_cast<char*>(base);
    if (!table().live.emplace(start, Allocation{start, bytes, Allocation::Registered, false, context.weak_from_this()}).second)
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    return CUDA_SUCCESS;
}

CUresult unregister_host(void* base) {
    return release(base, Allocation::Registered) ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : CUDA_SUCCESS;
}

CUresult release(void* base, Allocation::Kind kind) {
    std::lock_guard guard(table().mutex);
    auto found = table().live.find(static_cast<char*>(base));
    if (found == table().live.end() || found->second.kind != kind) return CUDA_ERROR_INVALID_VALUE;
    remove(found);
    return CUDA_SUCCESS;
}

std::optional<Allocation> allocation_of(const void* address) {
    std::lock_guard guard(table().mutex);
    const Allocation* found = holder(static_cast<const char*>(address));
    return found ? std::optional(*found) : std::nullopt;
}

bool is_accessible(const void* address, size_t bytes) {
    std::lock_guard guard(table().mutex);
    const Allocation* found = holder(static_cast<const char*>(address));
    return found && bytes <= size_t(found->end() - static_cast<const char*>(address));
}

bool is_overrun(const void* address) {
    std::lock_guard guard(table().mutex);
    const Allocation* found = holder(static_cast<const char*>(address));
    return found && tell_overrun(*found);
}

bool is_pinned(const void* address) {
    auto found = allocation_of(address);
    return found && found->kind != Allocation::Device && found->kind != Allocation::Imported;
}

void release_all(Context& context) {
    std::lock_guard guard(table().mutex);
    size_t count = 0, bytes = 0;
    for (auto next = table().live.begin(); next != table().live.end();) {
        auto found = next++;
        if (found->second.context.lock().get() != &context) continue;
        count++, bytes += found->second.bytes;
        remove(found);
    }
    if (!context.switches.tell_leaks || !count) return;
    fprintf(stderr, "fake cuda: device %d: %zu allocations of %zu bytes were not freed\n", context.ordinal, count, bytes);
    if (context.switches.fail_on_leaks) _exit(86);
}

}  // namespace fake
