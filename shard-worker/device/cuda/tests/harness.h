// What the tests share: facts, random numbers, guarded buffers, comparisons that NaN can't pass.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../shim/cpu_cuda.h"

namespace {
#include "../kernels/ptx.cuh"

#include "../kernels/common.cuh"

#include "../kernels/e4m3.cuh"
}  // namespace

namespace test {

inline int passed, failed;

/// Ends the fact under test as failed.
template <class... A>
[[noreturn]] void fail(const char* format, A... a) {
    char text[512];
    snprintf(text, sizeof text, format, a...);
    throw std::runtime_error(text);
}

template <class... A>
void expect(bool holds, const char* format, A... a) {
    if (!holds) fail(format, a...);
}

/// The last line of a test program and its exit status.
inline int summary() {
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}

/// Runs one fact and prints a line about it.
inline void fact(const char* name, const std::function<void()>& body) {
    try {
        body();
        passed++;
        printf("ok      %s\n", name);
    } catch (const std::exception& error) {
        failed++;
        printf("FAILED  %s: %s\n", name, error.what());
        // It is enough to notice a seeded bug once.
        if (getenv("CUDA_TEST_STOP")) exit(summary());
    }
    fflush(stdout);
}

/// SplitMix64: the same numbers for a seed everywhere.
class Random {
  public:
    explicit Random(uint64_t seed) : state(seed) {}

    uint64_t next() {
        uint64_t x = state += 0x9e3779b97f4a7c15;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
        x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
        return x ^ (x >> 31);
    }
    /// An integer of [low, high].
    int between(int low, int high) { return low + int(next() % uint64_t(high - low + 1)); }
    /// A number of [0, 1).
    double share() { return double(next() >> 11) * 0x1p-53; }
    /// A number of [-size, size).
    float around(float size) { return float((2 * share() - 1) * size); }
    bool chance(double p) { return share() < p; }

  private:
    uint64_t state;
};

/// Device memory for `n` numbers: 256-byte aligned, all ones (which is NaN, or -1) until written, with canaries before
/// it and after it and a page beyond that can't be touched.
template <class T>
class Buffer {
  public:
    explicit Buffer(size_t n) : n(n) {
        size_t whole = (n * sizeof(T) + GUARD - 1) / GUARD * GUARD;
        mapped = (GUARD + whole + cpucuda::PAGE - 1) / cpucuda::PAGE * cpucuda::PAGE + cpucuda::PAGE;
        base = cpucuda::map(mapped);
        end = base + mapped - cpucuda::PAGE;
        first = reinterpret_cast<T*>(end - whole);
        memset(base, 0xff, size_t(end - base));
        mprotect(end, cpucuda::PAGE, PROT_NONE);
    }
    explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
        if (n) memcpy(first, values.data(), n * sizeof(T));
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        if (!intact()) cpucuda::fail("a buffer was written outside its bounds");
        munmap(base, mapped);
    }

    T* get() { return first; }
    const T* get() const { return first; }
    size_t size() const { return n; }
    T& operator[](size_t i) { return first[i]; }
    const T& operator[](size_t i) const { return first[i]; }
    std::vector<T> copy() const { return std::vector<T>(first, first + n); }

    /// Whether number `i` is as it was before anything was written.
    bool untouched(size_t i) const {
        const unsigned char* bytes = reinterpret_cast<const unsigned char*>(first + i);
        for (size_t b = 0; b < sizeof(T); b++)
            if (bytes[b] != 0xff) return false;
        return true;
    }
    bool all_untouched() const {
        for (size_t i = 0; i < n; i++)
            if (!untouched(i)) return false;
        return true;
    }
    bool all_written() const {
        for (size_t i = 0; i < n; i++)
            if (untouched(i)) return false;
        return true;
    }

  private:
    static constexpr size_t GUARD = 256;

    bool intact() const {
        for (const char* p = base; p < end; p++) {
            if (p == reinterpret_cast<const char*>(first)) p += n * sizeof(T);
            if (p < end && *p != char(0xff)) return false;
        }
        return true;
    }

    size_t n, mapped;
    char *base, *end;
    T* first;
};

inline std::vector<float> random_floats(Random& random, size_t n, float size = 1) {
    std::vector<float> x(n);
    for (float& v : x) v = random.around(size);
    return x;
}

inline std::vector<bf16> random_bf16(Random& random, size_t n, float size = 1) {
    std::vector<bf16> x(n);
    for (bf16& v : x) v = to_bf16(random.around(size));
    return x;
}

/// What a bf16 may be off by, relatively: half a unit in the last place.
constexpr double BF16_ROUNDING = 0x1p-8;

/// Fails unless `got` is within `absolute + relative * |want|`; NaN only where NaN is wanted.
inline void close(double got, double want, double absolute, double relative, const char* what, size_t i = 0) {
    bool holds = std::isnan(want)   ? std::isnan(got)
                 : std::isinf(want) ? got == want
                                    : std::fabs(got - want) <= absolute + relative * std::fabs(want);
    expect(holds, "%s[%zu] is %.9g, not %.9g", what, i, got, want);
}

/// Row `r` of a matrix as one of its own.
template <class T>
std::vector<T> row_of(const T* matrix, size_t r, size_t cols) {
    return std::vector<T>(matrix + r * cols, matrix + (r + 1) * cols);
}

inline bool same_bits(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }
inline bool same_bits(bf16 a, bf16 b) { return a.bits == b.bits; }
template <class T>
bool same_bits(const T* a, const T* b, size_t n) {
    return n == 0 || memcmp(a, b, n * sizeof(T)) == 0;
}

}  // namespace test
