// Warp functions: shuffles and votes of CUDA, and the instructions that kernels/ptx.cuh names.
#pragma once

namespace cpucuda {

template <class T>
void put(uint32_t* words, T x) {
    static_assert(sizeof(T) <= 8);
    memcpy(words, &x, sizeof x);
}

template <class T>
T take(const uint32_t* words) {
    T x;
    memcpy(&x, words, sizeof x);
    return x;
}

/// Every lane takes what the lane of its third word brought; what a missing lane brought is all ones.
inline void exchange(Warp& warp, unsigned mask) {
    for (unsigned i = 0; i < WARP; i++) {
        if (!(mask >> i & 1)) continue;
        Lane& lane = warp.lanes[i];
        unsigned from = lane.in[2];
        bool there = mask >> from & 1;
        for (int word = 0; word < 2; word++) lane.out[word] = there ? warp.lanes[from].in[word] : ~0u;
    }
}

template <class T>
T shuffle(unsigned mask, T x, unsigned from) {
    put(mine().in, x);
    mine().in[2] = from;
    meet(mask, exchange);
    return take<T>(mine().out);
}

inline void nothing(Warp&, unsigned) {}

inline void vote(Warp& warp, unsigned mask) {
    unsigned votes = 0;
    for (unsigned i = 0; i < WARP; i++) votes |= (mask >> i & 1 && warp.lanes[i].in[0]) ? 1u << i : 0;
    for (Lane& lane : warp.lanes) lane.out[0] = votes;
}

inline void match(Warp& warp, unsigned mask) {
    for (unsigned i = 0; i < WARP; i++) {
        unsigned same = 0;
        for (unsigned j = 0; j < WARP; j++)
            same |= (mask >> j & 1 && warp.lanes[j].in[0] == warp.lanes[i].in[0] && warp.lanes[j].in[1] == warp.lanes[i].in[1]) ? 1u << j : 0;
        if (mask >> i & 1) warp.lanes[i].out[0] = same;
    }
}

template <class F>
void reduce(Warp& warp, unsigned mask, F f) {
    unsigned first = unsigned(__builtin_ctz(mask)), x = warp.lanes[first].in[0];
    for (unsigned i = first + 1; i < WARP; i++)
        if (mask >> i & 1) x = f(x, warp.lanes[i].in[0]);
    for (unsigned i = 0; i < WARP; i++)
        if (mask >> i & 1) warp.lanes[i].out[0] = x;
}

inline void reduce_add(Warp& warp, unsigned mask) {
    reduce(warp, mask, [](unsigned a, unsigned b) { return a + b; });
}
inline void reduce_max(Warp& warp, unsigned mask) {
    reduce(warp, mask, [](unsigned a, unsigned b) { return a < b ? b : a; });
}
inline void reduce_min(Warp& warp, unsigned mask) {
    reduce(warp, mask, [](unsigned a, unsigned b) { return b < a ? b : a; });
}

inline unsigned together(unsigned mask, unsigned x, WarpOperation operation) {
    mine().in[0] = x;
    meet(mask, operation);
    return mine().out[0];
}

/// Half of a register as a number: a bfloat16 is the upper half of a float.
inline float half(uint32_t pair, int which) { return bits<float>(which ? pair & 0xffff0000u : pair << 16); }

/// d[16, 8] = a[16, 16] b[16, 8] + d in the fragments of the PTX manual, "Matrix Fragments for mma.m16n8k16".
/// The sum is exact but for one rounding at the end; a tensor core truncates, so the last bits are not a device's.
inline void multiply(Warp& warp, unsigned mask) {
    if (mask != ~0u) fail("mma needs all lanes of a warp");
    float a[16][16], b[16][8];
    double d[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const uint32_t* in = warp.lanes[lane].in;
        int group = lane / 4, pair = lane % 4 * 2;
        for (int which = 0; which < 2; which++) {
            for (int r = 0; r < 4; r++) a[group + r % 2 * 8][pair + r / 2 * 8 + which] = half(in[r], which);
            for (int r = 0; r < 2; r++) b[pair + r * 8 + which][group] = half(in[4 + r], which);
            for (int r = 0; r < 2; r++) d[group + r * 8][pair + which] = bits<float>(in[6 + r * 2 + which]);
        }
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 8; col++) d[row][col] += double(a[row][k]) * double(b[k][col]);
    for (int lane = 0; lane < 32; lane++)
        for (int r = 0; r < 4; r++) warp.lanes[lane].out[r] = bits<uint32_t>(float(d[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2]));
}

/// Four 8x8 matrices of 16-bit numbers; lane i brings the address of row i % 8 of matrix i / 8.
template <bool TRANSPOSED>
void load_matrices(Warp& warp, unsigned mask) {
    if (mask != ~0u) fail("ldmatrix needs all lanes of a warp");
    uint16_t rows[32][8];
    for (int i = 0; i < 32; i++) {
        const char* row = take<const char*>(warp.lanes[i].in);
        if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix from an address that is not a multiple of 16");
        memcpy(rows[i], row, 16);
    }
    for (int i = 0; i < 32; i++)
        for (int m = 0; m < 4; m++) {
            int x = i / 4, y = i % 4 * 2;
            uint16_t low = TRANSPOSED ? rows[m * 8 + y][x] : rows[m * 8 + x][y];
            uint16_t high = TRANSPOSED ? rows[m * 8 + y + 1][x] : rows[m * 8 + x][y + 1];
            warp.lanes[i].out[m] = uint32_t(high) << 16 | low;
        }
}

}  // namespace cpucuda

template <class T>
T __shfl_sync(unsigned mask, T x, int from) {
    return cpucuda::shuffle(mask, x, unsigned(from) % 32);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int with) {
    return cpucuda::shuffle(mask, x, (cpucuda::my_lane() ^ unsigned(with)) % 32);
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned by) {
    unsigned lane = cpucuda::my_lane();
    return cpucuda::shuffle(mask, x, lane + by < 32 ? lane + by : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned by) {
    unsigned lane = cpucuda::my_lane();
    return cpucuda::shuffle(mask, x, lane >= by ? lane - by : lane);
}

inline void __syncwarp(unsigned mask = ~0u) { cpucuda::meet(mask, cpucuda::nothing); }
inline unsigned __ballot_sync(unsigned mask, int vote) { return cpucuda::together(mask, vote != 0, cpucuda::vote); }
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }
inline unsigned __reduce_add_sync(unsigned mask, unsigned x) { return cpucuda::together(mask, x, cpucuda::reduce_add); }
inline unsigned __reduce_max_sync(unsigned mask, unsigned x) { return cpucuda::together(mask, x, cpucuda::reduce_max); }
inline unsigned __reduce_min_sync(unsigned mask, unsigned x) { return cpucuda::together(mask, x, cpucuda::reduce_min); }
inline unsigned __match_any_sync(unsigned mask, unsigned x) {
    cpucuda::mine().in[1] = 0;
    return cpucuda::together(mask, x, cpucuda::match);
}

// The instructions of kernels/ptx.cuh.

inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    cpucuda::Lane& lane = cpucuda::mine();
    memcpy(lane.in, a, 16);
    memcpy(lane.in + 4, b, 8);
    memcpy(lane.in + 6, d, 16);
    cpucuda::meet(~0u, cpucuda::multiply);
    memcpy(d, lane.out, 16);
}

inline void ldmatrix_x4(unsigned (&r)[4], const void* row) {
    cpucuda::put(cpucuda::mine().in, row);
    cpucuda::meet(~0u, cpucuda::load_matrices<false>);
    memcpy(r, cpucuda::mine().out, 16);
}

inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
    cpucuda::put(cpucuda::mine().in, row);
    cpucuda::meet(~0u, cpucuda::load_matrices<true>);
    memcpy(r, cpucuda::mine().out, 16);
}

/// The destination is NaN until the copy is waited for.
inline void copy_async_16(void* shared, const void* global, unsigned bytes = 16) {
    if (bytes > 16 || (reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16)
        cpucuda::fail("cp.async wants at most 16 bytes between addresses that are multiples of 16");
    memset(shared, 0xff, 16);
    cpucuda::Thread& thread = *cpucuda::machine.current;
    thread.copies.push_back({shared, global, bytes, 16 - bytes, thread.copy_group});
}

inline void copy_async_commit() { cpucuda::machine.current->copy_group++; }

/// Waits until all but the last `N` groups that this thread committed are there.
template <int N>
void copy_async_wait() {
    cpucuda::Thread& thread = *cpucuda::machine.current;
    auto& copies = thread.copies;
    size_t done = 0;
    for (; done < copies.size() && copies[done].group + N < thread.copy_group; done++) {
        const cpucuda::AsyncCopy& copy = copies[done];
        if (copy.bytes) memcpy(copy.to, copy.from, copy.bytes);
        memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.zeros);
    }
    copies.erase(copies.begin(), copies.begin() + long(done));
}

inline void wait_for_kernels_ahead() { cpucuda::machine.waited++; }
inline float exp2_approx(float x) { return exp2f(x); }

using SharedWord = unsigned long long;
inline SharedWord load_acquire(const SharedWord* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline void store_release(SharedWord* p, SharedWord x) { __atomic_store_n(p, x, __ATOMIC_RELEASE); }
inline SharedWord nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return SharedWord(now.tv_sec) * 1000000000 + SharedWord(now.tv_nsec);
}
inline void let_others_go_on() { cpucuda::poll(); }
