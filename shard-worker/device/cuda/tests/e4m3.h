// What e4m3 is, from its specification alone.
#pragma once

#include "harness.h"

namespace test {

/// The format's table: 448 is the largest, 2^-9 the smallest.
inline double meaning(unsigned code) {
    unsigned exponent = code >> 3 & 15, mantissa = code & 7;
    double size = exponent ? std::ldexp(8 + mantissa, int(exponent) - 10) : std::ldexp(mantissa, -9);
    return code & 0x80 ? -size : size;
}

/// The code nearest to x; of two the even one, and of zeros the one with the sign of x.
inline unsigned nearest(double x) {
    const unsigned first = std::signbit(x) ? 0x80 : 0;
    unsigned best = first;
    for (unsigned code = first; code < first + 0x7f; code++) {
        double was = std::fabs(meaning(best) - x), is = std::fabs(meaning(code) - x);
        if (is < was || (is == was && code % 2 == 0)) best = code;
    }
    return best;
}

/// What numbers are divided by to become e4m3: their largest becomes 448.
inline float scale_of(const std::vector<float>& numbers) {
    float most = 0;
    for (float x : numbers) most = std::max(most, std::fabs(x));
    return most ? most / 448 : 1;
}

/// Where number `i` of a head's lies among those of a token in the cache.
inline size_t interleaved(size_t i) { return i / 16 * 16 + i % 8 * 2 + i / 8 % 2; }

}  // namespace test
