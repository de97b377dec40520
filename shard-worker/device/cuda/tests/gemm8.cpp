// Facts about weights of 8 bits: how they are made and how they are multiplied.
#include "e4m3.h"

namespace {
#include "../kernels/rows.cuh"
#include "../kernels/pieces.cuh"
#include "../kernels/gemm.cuh"
#include "../kernels/gemm_e4m3.cuh"
#include "../kernels/gemm_small.cuh"
#include "../kernels/gemm_tile.cuh"
#include "../kernels/gemm_parts.cuh"

using test::Buffer;
using test::meaning;
using test::nearest;
using test::Random;

/// Where number k of a row lies.
size_t place(size_t k) {
    const size_t order[] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
    return k / 16 * 16 + order[k % 16];
}

void codes() {
    test::fact("all_codes_are_widened_exactly", [] {
        for (unsigned code = 0; code < 256; code++) {
            if ((code & 0x7f) == 0x7f) continue;
            for (u32 other : {0x00u, 0x3au, 0xffu}) {
                const u32 below = code | other << 8, above = code << 8 | other;
                test::expect(low_half(widen_bytes<0, 1>(below | 0xabcd0000u)) == float(meaning(code)), "code %x below %x", code, other);
                test::expect(high_half(widen_bytes<0, 1>(above | 0xabcd0000u)) == float(meaning(code)), "code %x above %x", code, other);
                test::expect(low_half(widen_bytes<2, 3>(below << 16 | 0xabcdu)) == float(meaning(code)), "code %x below %x in the upper half", code, other);
                test::expect(high_half(widen_bytes<2, 3>(above << 16 | 0xabcdu)) == float(meaning(code)), "code %x above %x in the upper half", code, other);
            }
            const u32 four = 0x00a1u << 16 | 0xb2u << 8 | code;
            test::expect(low_half(widen_bytes<0, 2>(four)) == float(meaning(code)) && high_half(widen_bytes<0, 2>(four)) == float(meaning(0xa1)), "bytes 0 and 2, %x", code);
            test::expect(low_half(widen_bytes<1, 3>(four)) == float(meaning(0xb2)) && high_half(widen_bytes<1, 3>(code << 24 | four)) == float(meaning(code)), "bytes 1 and 3, %x", code);
            test::expect(std::signbit(low_half(widen_bytes<0, 1>(code))) == (code >= 0x80), "the sign of %x", code);
        }
    });
    test::fact("numbers_become_the_nearest_code", [] {
        Random random(1);
        for (unsigned code = 0; code < 256; code++) {
            if ((code & 0x7f) == 0x7f) continue;
            unsigned next = (code & 0x7f) == 0x7e ? code : code + 1;
            const float is = float(meaning(code)), middle = float((meaning(code) + meaning(next)) / 2);
            for (float x : {is, middle, std::nextafterf(middle, 1e9f), std::nextafterf(middle, -1e9f)}) {
                if (x == 0) x = std::copysign(x, code & 0x80 ? -1.0f : 1.0f);
                test::expect(to_e4m3(x).bits == nearest(x), "%.9g became %x", double(x), to_e4m3(x).bits);
            }
        }
        for (int i = 0; i < 20000; i++) {
            float x = std::ldexp(random.around(1), random.between(-12, 9));
            test::expect(to_e4m3(x).bits == nearest(x), "%.9g became %x, not %x", double(x), to_e4m3(x).bits, nearest(x));
        }
        test::expect(to_e4m3(1e30f).bits == 0x7e && to_e4m3(-449).bits == 0xfe && to_e4m3(-INFINITY).bits == 0xfe, "saturation");
    });
    test::fact("rows_are_quantised_to_their_largest_number", [] {
        for (int k : {16, 80, 1008}) {
            const size_t rows = 6, cols = size_t(k);
            Random random(2);
            std::vector<bf16> w = test::random_bf16(random, rows * cols);
            for (size_t i = 0; i < cols; i++) w[2 * cols + i] = {u16(i % 2 << 15)}, w[5 * cols + i] = to_bf16(to_float(w[5 * cols + i]) * 1e-3f);
            w[cols + cols - 1] = to_bf16(-300.0f), w[3 * cols + 5] = {0x7f80}, w[4 * cols + 9] = {0x7fc0};
            Buffer<bf16> device(w);
            Buffer<e4m3> out(w.size());
            Buffer<float> scales(rows);
            cpucuda::launch(unsigned(rows), 256, 0, [&] { quantise_rows(device.get(), out.get(), scales.get(), k); });
            test::expect(std::isnan(scales[3]) && std::isnan(scales[4]) && scales[2] == 1, "scales of odd rows");
            for (size_t row : {0u, 1u, 2u, 5u}) {
                float most = 0;
                for (size_t i = 0; i < cols; i++) most = std::max(most, std::fabs(to_float(w[row * cols + i])));
                test::expect(scales[row] == (most ? most / 448 : 1), "the scale of row %zu", row);
                for (size_t i = 0; i < cols; i++)
                    test::expect(out[row * cols + place(i)].bits == nearest(to_float(w[row * cols + i]) / scales[row]), "number %zu of row %zu is %x", i, row, out[row * cols + place(i)].bits);
            }
        }
    });
}

struct Shape {
    int m, n, k;
};

struct Operands {
    Shape shape;
    Buffer<bf16> x;
    Buffer<e4m3> w;
    Buffer<bf16> wide;
    Buffer<float> scales;

    Operands(Shape s, uint64_t seed)
        : shape(s), x(size_t(s.m) * size_t(s.k)), w(size_t(s.n) * size_t(s.k)), wide(w.size()), scales(size_t(s.n)) {
        Random random(seed);
        for (size_t i = 0; i < x.size(); i++) x[i] = to_bf16(random.around(1));
        for (size_t i = 0; i < w.size(); i++) {
            unsigned code = unsigned(random.between(0, 253));
            code = code < 127 ? code : code + 1;
            const size_t row = i / size_t(s.k) * size_t(s.k);
            w[row + place(i - row)] = {static_cast<unsigned char>(code)};
            wide[i] = to_bf16(float(meaning(code)));
        }
        for (size_t i = 0; i < scales.size(); i++) scales[i] = 0.001f + random.around(0.0009f);
    }
};

enum class Kind { SMALL, TILE, WIDE, PARTS };
constexpr Kind KINDS[] = {Kind::SMALL, Kind::TILE, Kind::WIDE, Kind::PARTS};

const char* name(Kind kind) { return kind == Kind::SMALL ? "gemm_small8" : kind == Kind::TILE ? "gemm_tile8" : kind == Kind::WIDE ? "gemm_wide8" : "gemm_parts8"; }

template <class Out>
void by_parts(const Operands& of, Out* out, unsigned parts) {
    auto [m, n, k] = of.shape;
    const int numbers = m * n;
    Buffer<float> partials(8 * partial_stride(size_t(numbers)));
    cpucuda::launch({unsigned(ceil_div(n, 128) * ceil_div(m, 128)), 1, parts}, 256, GEMM_TILE_SHARED,
                    [&, m = m, n = n, k = k] { gemm_part8(of.x.get(), of.w.get(), of.scales.get(), partials.get(), m, n, k); });
    cpucuda::launch(unsigned(ceil_div(numbers, 1024)), 256, 0, [&, n = n] {
        if constexpr (sizeof(Out) == 4)
            gemm_join_f(partials.get(), of.scales.get(), out, numbers, n);
        else
            gemm_join_w(partials.get(), of.scales.get(), out, numbers, n);
    });
}

/// `grid` blocks of gemm_small8, or parts.
template <class Out>
std::vector<Out> product(Kind kind, const Operands& of, unsigned grid = 3) {
    auto [m, n, k] = of.shape;
    Buffer<Out> out(size_t(m) * size_t(n));
    const unsigned features = unsigned(ceil_div(n, 128)), tiles = features * unsigned(ceil_div(m, 128)), wide = features * unsigned(ceil_div(m, 256));
    auto launch = [&, m = m, n = n, k = k](unsigned blocks, int shared, auto kernel) {
        cpucuda::launch(blocks, 256, size_t(shared), [&, m, n, k] { kernel(of.x.get(), of.w.get(), of.scales.get(), out.get(), m, n, k); });
    };
    constexpr bool FULL = sizeof(Out) == 4;
    auto one = [](auto full, auto working) {
        if constexpr (FULL)
            return full;
        else
            return working;
    };
    if (kind == Kind::SMALL) launch(grid, GEMM_SMALL_SHARED, one(gemm_small8_f, gemm_small8_w));
    if (kind == Kind::TILE) launch(tiles, GEMM_TILE_SHARED, one(gemm_tile8_f, gemm_tile8_w));
    if (kind == Kind::WIDE) launch(wide, GEMM_WIDE8_SHARED, one(gemm_wide8_f, gemm_wide8_w));
    if (kind == Kind::PARTS) by_parts(of, out.get(), grid);
    test::expect(out.all_written(), "a number was not written");
    return out.copy();
}

/// The product with the widened weights by the kernel for bf16, whose facts are in gemm.cpp.
std::vector<float> wide_product(const Operands& of) {
    auto [m, n, k] = of.shape;
    Buffer<float> out(size_t(m) * size_t(n));
    cpucuda::launch(unsigned(ceil_div(n, 128) * ceil_div(m, 128)), 256, GEMM_TILE_SHARED,
                    [&, m = m, n = n, k = k] { gemm_tile_f(of.x.get(), of.wide.get(), out.get(), m, n, k); });
    std::vector<float> scaled = out.copy();
    for (size_t i = 0; i < scaled.size(); i++) scaled[i] *= of.scales[i % size_t(n)];
    return scaled;
}

void same(const std::vector<float>& got, const std::vector<float>& want, const char* what) {
    for (size_t i = 0; i < want.size(); i++)
        test::expect(test::same_bits(got[i], want[i]), "%s: number %zu is %.9g, not %.9g", what, i, double(got[i]), double(want[i]));
}

void products() {
    const std::vector<Shape> shapes = {{1, 1, 16},    {3, 16, 64},   {7, 15, 80},   {8, 40, 208},   {9, 33, 512},   {16, 65, 528},
                                       {17, 64, 144}, {31, 63, 448}, {33, 130, 272}, {64, 100, 1040}, {2, 48, 1552}, {1, 300, 128}};
    for (Kind kind : KINDS) {
        test::fact((std::string(name(kind)) + "_has_the_bits_of_the_wide_product_times_the_scale").c_str(), [=] {
            for (Shape shape : shapes) {
                Operands of(shape, 3);
                const std::vector<float> want = wide_product(of);
                const std::vector<bf16> rounded = product<bf16>(kind, of);
                same(product<float>(kind, of), want, name(kind));
                for (size_t i = 0; i < want.size(); i++)
                    test::expect(test::same_bits(rounded[i], to_bf16(want[i])), "m=%d n=%d k=%d: bf16 number %zu", shape.m, shape.n, shape.k, i);
            }
        });
        test::fact((std::string(name(kind)) + "_is_near_the_exact_product").c_str(), [=] {
            Operands of({5, 20, 400}, 4);
            const std::vector<float> out = product<float>(kind, of);
            for (size_t row = 0; row < 5; row++)
                for (size_t feature = 0; feature < 20; feature++) {
                    double sum = 0, size = 0;
                    for (size_t k = 0; k < 400; k++) {
                        double term = to_float(of.x[row * 400 + k]) * meaning(of.w[feature * 400 + place(k)].bits) * of.scales[feature];
                        sum += term, size += std::fabs(term);
                    }
                    test::close(out[row * 20 + feature], sum, size * 0x1p-22, 0, "out", row * 20 + feature);
                }
        });
    }
    test::fact("a_row_and_a_feature_are_the_same_whatever_the_grid_and_the_tile", [] {
        Operands of({300, 700, 96}, 5), few({8, 700, 96}, 5);
        const std::vector<float> want = wide_product(of);
        same(product<float>(Kind::TILE, of), want, "tile");
        same(product<float>(Kind::WIDE, of), want, "wide");
        same(product<float>(Kind::PARTS, of, 8), want, "parts");
        const std::vector<float> one = product<float>(Kind::SMALL, few, 1);
        for (unsigned grid : {2u, 7u, 50u}) same(product<float>(Kind::SMALL, few, grid), one, "grid");
    });
    test::fact("segments_in_any_parts_have_the_same_bits_as_one_after_the_other", [] {
        for (int k : {16, 80, 320, 512, 1552, 4096, 14336}) {
            Operands of({70, 9, k}, 6);
            const std::vector<float> want = product<float>(Kind::TILE, of);
            same(product<float>(Kind::WIDE, of), want, "wide");
            for (unsigned parts : {1u, 2u, 3u, 7u, 8u}) same(product<float>(Kind::PARTS, of, parts), want, "parts");
        }
    });
    test::fact("a_scale_that_is_not_a_number_stays_in_its_feature", [] {
        for (Kind kind : KINDS) {
            Operands of({12, 41, 272}, 7);
            const std::vector<float> clean = product<float>(kind, of);
            of.scales[21] = NAN;
            const std::vector<float> out = product<float>(kind, of);
            for (size_t i = 0; i < out.size(); i++)
                test::expect(i % 41 == 21 ? std::isnan(out[i]) : test::same_bits(out[i], clean[i]), "%s: number %zu is %g", name(kind), i, double(out[i]));
        }
    });
}

}  // namespace

int main() {
    codes();
    products();
    return test::summary();
}
