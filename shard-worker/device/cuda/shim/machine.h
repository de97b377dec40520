// The machine under the shim: one fiber a CUDA thread, one block at a time, and what makes threads wait for each other.
//
// Threads of a block start in a shuffled order and run until they wait, so that code which forgot a barrier meets
// memory that another thread has not written yet (shared memory starts as NaN). A wait that can never end, threads
// that wait at different barriers, and lanes that meet in different warp functions end the process with a message.
//
// A block whose threads look again and again for what others write is put aside, so that the grid's other blocks and the
// launches of other host threads go on meanwhile: kernels of several devices may wait for each other.
#pragma once

#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#ifndef __x86_64__
#error "the shim switches stacks in x86-64 assembly"
#endif

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cpucuda {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned MAX_GRID_YZ = 65535;
/// What a block may ask for on sm_90.
constexpr size_t MAX_SHARED = 227 * 1024;
constexpr size_t PAGE = 4096;
constexpr size_t STACK = 64 * 1024;

[[noreturn]] inline void fail(const char* what, const char* detail = "") {
    fflush(stdout);
    fprintf(stderr, "cpu_cuda: %s%s\n", what, detail);
    abort();
}

/// Saves the callee-saved registers and the stack in `*save`, and goes on where `resume` was saved.
__attribute__((naked, noipa)) inline void switch_stack(void** /*save*/, void* /*resume*/) {
    __asm__(
        "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

/// A copy to shared memory that was begun and not waited for.
struct AsyncCopy {
    void* to;
    const void* from;
    unsigned bytes, zeros, group;
};

struct Thread {
    void* stack;
    Thread* next;
    uint3 index;
    unsigned linear;
    bool done;
    unsigned copy_group;
    std::vector<AsyncCopy> copies;
};

struct Queue {
    Thread *first = nullptr, *last = nullptr;
    void push(Thread* thread) {
        thread->next = nullptr;
        (first ? last->next : first) = thread;
        last = thread;
    }
    Thread* pop() {
        Thread* thread = first;
        if (thread) first = thread->next;
        return thread;
    }
};

/// What a lane brings to a warp function and takes from it.
struct Lane {
    uint32_t in[10], out[4];
};

struct Warp;
/// Computes `out` of the lanes of `mask` from their `in`; the last lane that arrives runs it for all.
using WarpOperation = void (*)(Warp& warp, unsigned mask);

/// Lanes of one mask that wait for the others of it.
struct Meeting {
    unsigned mask = 0, arrived = 0;
    WarpOperation operation = nullptr;
    Queue waiting;
};

struct Warp {
    unsigned live;
    Lane lanes[WARP];
    Meeting meetings[WARP];

    /// That of a mask; disjoint masks may meet at the same time.
    Meeting& meeting(unsigned mask) {
        for (Meeting& m : meetings) {
            if (m.arrived && m.mask == mask) return m;
            if (m.arrived && (m.mask & mask)) fail("lanes of a warp meet under different masks");
        }
        for (Meeting& m : meetings) {
            if (m.arrived) continue;
            m.mask = mask;
            return m;
        }
        fail("more meetings than lanes");
    }
};

/// The block that runs, and the grid it is of.
struct Machine {
    dim3 grid, block;
    uint3 block_index;
    size_t dynamic_bytes;
    void (*body)(void*);
    void* argument;

    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Thread* current;
    void* main_stack;
    Queue ready;
    unsigned live;

    /// Threads that look for what others write.
    Queue polling;

    unsigned arrived;
    Queue at_barrier;
    const char* barrier_file;
    int barrier_line;

    /// Calls of `wait_for_kernels_ahead` in this launch.
    size_t waited;

    uint64_t shuffle_state = 0x9e3779b97f4a7c15;
    char *stacks = nullptr, *dynamic_end = nullptr;

    unsigned random(unsigned below) {
        shuffle_state ^= shuffle_state << 13;
        shuffle_state ^= shuffle_state >> 7;
        shuffle_state ^= shuffle_state << 17;
        return unsigned((shuffle_state >> 33) % below);
    }

    /// Dynamic shared memory ends at a page that can't be touched.
    char* dynamic_shared() { return dynamic_end - (dynamic_bytes + 127) / 128 * 128; }
};

inline Machine machine;
inline std::mutex one_launch;

inline Warp& my_warp() { return machine.warps[machine.current->linear / WARP]; }
inline unsigned my_lane() { return machine.current->linear % WARP; }
inline Lane& mine() { return my_warp().lanes[my_lane()]; }

[[noreturn]] inline void deadlock() {
    char detail[512];
    unsigned in_warps = 0;
    for (const Warp& warp : machine.warps)
        for (const Meeting& m : warp.meetings) in_warps += unsigned(__builtin_popcount(m.arrived));
    snprintf(detail, sizeof detail, "%u threads live, %u at the barrier of %s:%d, %u in warp functions", machine.live,
             machine.arrived, machine.arrived ? machine.barrier_file : "-", machine.arrived ? machine.barrier_line : 0, in_warps);
    fail("threads wait for each other for ever: ", detail);
}

/// Goes on with another thread until somebody pushes the current one into `ready`. Where all threads have ended, or none can go
/// on before others write, the launch goes on.
inline void wait() {
    Thread* self = machine.current;
    Thread* next = machine.ready.pop();
    if (!next) {
        if (machine.live && !machine.polling.first) deadlock();
        return switch_stack(&self->stack, machine.main_stack);
    }
    machine.current = next;
    switch_stack(&self->stack, next->stack);
}

/// Lets all else go on before the current thread looks again for what others write.
inline void poll() {
    machine.polling.push(machine.current);
    wait();
}

inline void wake(Queue& waiting) {
    while (Thread* thread = waiting.pop()) machine.ready.push(thread);
}

inline void release_barrier() {
    machine.arrived = 0;
    wake(machine.at_barrier);
}

/// `__syncthreads()`: threads that have ended are not waited for, as on the device.
inline void block_barrier(const char* file, int line) {
    if (machine.arrived && (machine.barrier_line != line || strcmp(machine.barrier_file, file) != 0)) {
        char detail[512];
        snprintf(detail, sizeof detail, "%s:%d and %s:%d", machine.barrier_file, machine.barrier_line, file, line);
        fail("threads of a block wait at different barriers: ", detail);
    }
    machine.barrier_file = file, machine.barrier_line = line;
    if (++machine.arrived >= machine.live) return release_barrier();
    machine.at_barrier.push(machine.current);
    wait();
}

/// Ends a meeting once no live lane is missing.
inline bool conclude(Warp& warp, Meeting& m) {
    if (m.mask & warp.live & ~m.arrived) return false;
    m.operation(warp, m.arrived);
    m.arrived = 0;
    wake(m.waiting);
    return true;
}

/// What a warp function is made of: the lane's `in` is set; its `out` is afterwards.
inline void meet(unsigned mask, WarpOperation operation) {
    Warp& warp = my_warp();
    unsigned me = 1u << my_lane();
    if (!(mask & me)) fail("a lane calls a warp function with a mask it is not in");
    Meeting& m = warp.meeting(mask);
    if (m.arrived && m.operation != operation) fail("lanes of a warp meet in different functions");
    m.operation = operation;
    m.arrived |= me;
    if (conclude(warp, m)) return;
    m.waiting.push(machine.current);
    wait();
}

/// Runs a thread from its first instruction to its last; never returns.
inline void thread_main() {
    machine.body(machine.argument);
    Thread& self = *machine.current;
    if (!self.copies.empty()) fail("a thread ends with copies that it did not wait for");
    self.done = true;
    machine.live--;
    Warp& warp = my_warp();
    warp.live &= ~(1u << my_lane());
    for (Meeting& m : warp.meetings)
        if (m.arrived) conclude(warp, m);
    if (machine.arrived && machine.arrived >= machine.live) release_barrier();
    wait();
    fail("a thread that ended was resumed");
}

/// Shared variables of kernels lie in one section of the program, whose bounds the linker gives.
extern "C" {
extern char __start_cpu_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cpu_cuda_shared[] __attribute__((weak, visibility("hidden")));
}

/// Shared memory is NaN until it is written.
inline void poison_shared() {
    memset(machine.dynamic_shared(), 0xff, size_t(machine.dynamic_end - machine.dynamic_shared()));
    if (__start_cpu_cuda_shared) memset(__start_cpu_cuda_shared, 0xff, size_t(__stop_cpu_cuda_shared - __start_cpu_cuda_shared));
}

inline void check_shared() {
    for (char* p = machine.dynamic_shared() + machine.dynamic_bytes; p < machine.dynamic_end; p++)
        if (*p != char(0xff)) fail("dynamic shared memory was written beyond its end");
}

inline char* map(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("no memory");
    return static_cast<char*>(p);
}

/// Memory of blocks that were put aside and have ended.
struct Memory {
    char *stacks, *dynamic_end;
};
inline std::vector<Memory> spare_memory;

inline void reserve_memory() {
    if (machine.stacks) return;
    if (!spare_memory.empty()) {
        machine.stacks = spare_memory.back().stacks, machine.dynamic_end = spare_memory.back().dynamic_end;
        return spare_memory.pop_back();
    }
    machine.stacks = map(MAX_THREADS * STACK);
    size_t shared = (MAX_SHARED + PAGE - 1) / PAGE * PAGE;
    machine.dynamic_end = map(shared + PAGE) + shared;
    mprotect(machine.dynamic_end, PAGE, PROT_NONE);
}

/// A block that was put aside.
struct Parked {
    Machine machine;
    std::vector<char> shared;
};

inline size_t static_shared_bytes() { return __start_cpu_cuda_shared ? size_t(__stop_cpu_cuda_shared - __start_cpu_cuda_shared) : 0; }

/// Puts the block aside that runs.
inline Parked park() {
    Parked parked{std::move(machine), std::vector<char>(static_shared_bytes())};
    if (!parked.shared.empty()) memcpy(parked.shared.data(), __start_cpu_cuda_shared, parked.shared.size());
    machine = {};
    machine.shuffle_state = parked.machine.shuffle_state;
    return parked;
}

inline void unpark(Parked&& parked) {
    if (machine.stacks) spare_memory.push_back({machine.stacks, machine.dynamic_end});
    uint64_t shuffle_state = machine.shuffle_state;
    machine = std::move(parked.machine);
    machine.shuffle_state = shuffle_state;
    if (!parked.shared.empty()) memcpy(__start_cpu_cuda_shared, parked.shared.data(), parked.shared.size());
}

/// Lays out a thread's stack so that switching to it enters `thread_main`.
inline void prepare(Thread& thread, unsigned linear) {
    const dim3& block = machine.block;
    thread.index = {linear % block.x, linear / block.x % block.y, linear / (block.x * block.y)};
    thread.linear = linear;
    thread.done = false;
    thread.copy_group = 0;
    // Stacks that all began at the same place of a page would share a few lines of the cache.
    char* top = machine.stacks + (linear + 1) * STACK - linear * 320 % PAGE;
    void** p = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(63));
    *--p = nullptr;
    *--p = reinterpret_cast<void*>(thread_main);
    for (int saved = 0; saved < 6; saved++) *--p = nullptr;
    thread.stack = p;
}

/// Runs the block's threads; whether all have ended.
inline bool resume_block() {
    wake(machine.polling);
    machine.current = machine.ready.pop();
    switch_stack(&machine.main_stack, machine.current->stack);
    if (machine.live) return false;
    check_shared();
    return true;
}

inline bool start_block(unsigned count) {
    reserve_memory();
    machine.threads.resize(MAX_THREADS);
    machine.warps.assign((count + WARP - 1) / WARP, Warp{});
    poison_shared();
    machine.live = count;
    machine.arrived = 0;
    for (unsigned w = 0; w < machine.warps.size(); w++) {
        unsigned lanes = count - w * WARP;
        machine.warps[w].live = lanes >= WARP ? ~0u : (1u << lanes) - 1;
    }
    static std::vector<unsigned> order;
    order.resize(count);
    for (unsigned i = 0; i < count; i++) {
        unsigned j = machine.random(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (unsigned i : order) {
        prepare(machine.threads[i], i);
        machine.ready.push(&machine.threads[i]);
    }
    return resume_block();
}

/// First a short spin, since others are often there already, then less and less of a processor.
inline void pause(unsigned turn) {
    if (turn < 64)
        sched_yield();
    else
        usleep(turn < 512 ? 20 : 200);
}

inline void check_launch(dim3 grid, dim3 block, size_t dynamic_bytes) {
    if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z) fail("an empty grid or block");
    if (grid.x > 0x7fffffff || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ) fail("a grid larger than a device takes");
    if (size_t(block.x) * block.y * block.z > MAX_THREADS || block.z > 64) fail("a block larger than a device takes");
    if (dynamic_bytes > MAX_SHARED) fail("more dynamic shared memory than a device has");
}

/// Runs `kernel()` in every thread of a grid and returns when all have ended, with whether each has waited once for the
/// kernels ahead. One launch at a time in a process, but for those that wait for others.
template <class Kernel>
bool launch(dim3 grid, dim3 block, size_t dynamic_bytes, Kernel kernel) {
    check_launch(grid, block, dynamic_bytes);
    std::unique_lock<std::mutex> guard(one_launch);
    unsigned count = block.x * block.y * block.z;
    size_t waited = 0;
    // Blocks may run in any order on a device: forwards and backwards by turns.
    size_t blocks = size_t(grid.x) * grid.y * grid.z;
    bool backwards = machine.random(2);
    std::deque<Parked> parked;
    for (size_t i = 0; i < blocks; i++) {
        size_t b = backwards ? blocks - 1 - i : i;
        machine.grid = grid, machine.block = block, machine.dynamic_bytes = dynamic_bytes;
        machine.body = [](void* kernel) { (*static_cast<Kernel*>(kernel))(); };
        machine.argument = &kernel;
        machine.block_index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
        machine.waited = 0;
        bool ended = start_block(count);
        waited += machine.waited;
        if (!ended) parked.push_back(park());
    }
    for (unsigned turn = 0; !parked.empty(); turn++) {
        guard.unlock();
        pause(turn);
        guard.lock();
        for (size_t left = parked.size(); left; left--) {
            unpark(std::move(parked.front()));
            parked.pop_front();
            machine.waited = 0;
            bool ended = resume_block();
            waited += machine.waited;
            if (!ended) parked.push_back(park());
        }
    }
    return waited == blocks * count;
}

}  // namespace cpucuda
