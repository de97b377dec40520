// Facts about the matrix products.
#include "harness.h"

namespace {
#include "../kernels/rows.cuh"
#include "../kernels/pieces.cuh"
#include "../kernels/gemm.cuh"
#include "../kernels/gemm_e4m3.cuh"
#include "../kernels/gemm_small.cuh"
#include "../kernels/gemm_tile.cuh"
#include "../kernels/gemm_parts.cuh"

using test::Buffer;
using test::Random;

struct Shape {
    int m, n, k;
};

struct Operands {
    Shape shape;
    Buffer<bf16> x, w;

    Operands(Shape s, Random random)
        : shape(s), x(test::random_bf16(random, size_t(s.m) * size_t(s.k))), w(test::random_bf16(random, size_t(s.n) * size_t(s.k))) {}
    Operands(Shape s, const std::vector<bf16>& x, const std::vector<bf16>& w) : shape(s), x(x), w(w) {}
};

enum class Kind { SMALL, TILE, WIDE, PARTS };
constexpr Kind KINDS[] = {Kind::SMALL, Kind::TILE, Kind::WIDE, Kind::PARTS};

/// gemm_part in so many parts; what it writes, which is all that there is room for.
void launch_parts(const Operands& of, float* partials, unsigned parts) {
    auto [m, n, k] = of.shape;
    const bf16 *x = of.x.get(), *w = of.w.get();
    cpucuda::launch({unsigned(ceil_div(n, 128) * ceil_div(m, 128)), 1, parts}, 256, GEMM_TILE_SHARED, [=] { gemm_part(x, w, partials, m, n, k); });
}

template <class Out, class Join>
void launch_parts(const Operands& of, Out* out, unsigned parts, Join join) {
    const int n = of.shape.n;
    const long long numbers = (long long)(of.shape.m) * n;
    Buffer<float> partials(8 * partial_stride(size_t(numbers)));
    launch_parts(of, partials.get(), parts);
    const float* from = partials.get();
    cpucuda::launch(unsigned((numbers + 1023) / 1024), 256, 0, [=] { join(from, nullptr, out, int(numbers), n); });
}

void launch(Kind kind, const Operands& of, float* out, unsigned grid) {
    auto [m, n, k] = of.shape;
    const bf16 *x = of.x.get(), *w = of.w.get();
    unsigned features = unsigned(ceil_div(n, 128));
    if (kind == Kind::SMALL) cpucuda::launch(grid, 256, GEMM_SMALL_SHARED, [=] { gemm_small_f(x, w, out, m, n, k); });
    if (kind == Kind::TILE) cpucuda::launch(features * unsigned(ceil_div(m, 128)), 256, GEMM_TILE_SHARED, [=] { gemm_tile_f(x, w, out, m, n, k); });
    if (kind == Kind::WIDE) cpucuda::launch(features * unsigned(ceil_div(m, 256)), 256, GEMM_WIDE_SHARED, [=] { gemm_wide_f(x, w, out, m, n, k); });
    if (kind == Kind::PARTS) launch_parts(of, out, grid, gemm_join_f);
}

void launch(Kind kind, const Operands& of, bf16* out, unsigned grid) {
    auto [m, n, k] = of.shape;
    const bf16 *x = of.x.get(), *w = of.w.get();
    unsigned features = unsigned(ceil_div(n, 128));
    if (kind == Kind::SMALL) cpucuda::launch(grid, 256, GEMM_SMALL_SHARED, [=] { gemm_small_w(x, w, out, m, n, k); });
    if (kind == Kind::TILE) cpucuda::launch(features * unsigned(ceil_div(m, 128)), 256, GEMM_TILE_SHARED, [=] { gemm_tile_w(x, w, out, m, n, k); });
    if (kind == Kind::WIDE) cpucuda::launch(features * unsigned(ceil_div(m, 256)), 256, GEMM_WIDE_SHARED, [=] { gemm_wide_w(x, w, out, m, n, k); });
    if (kind == Kind::PARTS) launch_parts(of, out, grid, gemm_join_w);
}

template <class Out>
std::vector<Out> product(Kind kind, const Operands& of, unsigned grid = 3) {
    Buffer<Out> out(size_t(of.shape.m) * size_t(of.shape.n));
    launch(kind, of, out.get(), grid);
    test::expect(out.all_written(), "a number of m=%d n=%d k=%d was not written", of.shape.m, of.shape.n, of.shape.k);
    return out.copy();
}

/// The definition, word for word: 8 segments at multiples of 64 near i k / 8; within one, 16 numbers of k at a time are
/// added to the sum at once; then the segments in order.
float as_defined(const Operands& of, int row, int feature) {
    int k = of.shape.k;
    auto term = [&](int at) {
        return at < k ? double(to_float(of.x[size_t(row) * size_t(k) + size_t(at)])) * to_float(of.w[size_t(feature) * size_t(k) + size_t(at)]) : 0;
    };
    auto bound = [&](int segment) { return segment == 8 ? k : int(std::floor(double(segment) * k / 512 + 0.5)) * 64; };
    float total = 0;
    for (int segment = 0; segment < 8; segment++) {
        float sum = 0;
        for (int from = bound(segment); from < bound(segment + 1); from += 16) {
            double exact = sum;
            for (int at = from; at < from + 16; at++) exact += term(at);
            sum = float(exact);
        }
        total += sum;
    }
    return total;
}

const std::vector<Shape> SHAPES = {{1, 1, 8},    {3, 16, 64},  {7, 15, 72},   {8, 40, 200},  {9, 33, 512},   {16, 65, 520},
                                   {17, 64, 136}, {31, 63, 448}, {33, 130, 264}, {64, 100, 1032}, {2, 48, 1544}};

std::string name(Shape s) { return "m=" + std::to_string(s.m) + " n=" + std::to_string(s.n) + " k=" + std::to_string(s.k); }

template <class Out>
void near_the_exact_product(Kind kind, Shape shape, double relative) {
    Operands of(shape, Random(1));
    std::vector<Out> out = product<Out>(kind, of);
    auto [m, n, k] = shape;
    for (int row = 0; row < m; row++)
        for (int feature = 0; feature < n; feature++) {
            double exact = 0, size = 0;
            for (int at = 0; at < k; at++) {
                double term = double(to_float(of.x[size_t(row * k + at)])) * to_float(of.w[size_t(feature * k + at)]);
                exact += term, size += std::fabs(term);
            }
            size_t i = size_t(row) * size_t(n) + size_t(feature);
            test::close(to_float(out[i]), exact, size * 0x1p-22, relative, name(shape).c_str(), i);
        }
}

/// Rows `from`.. of the operands as a product of their own.
Operands some_rows(const Operands& of, int from, int count) {
    auto [m, n, k] = of.shape;
    std::vector<bf16> x = of.x.copy();
    auto first = x.begin() + long(from) * k;
    return Operands({count, n, k}, std::vector<bf16>(first, first + long(count) * k), of.w.copy());
}

template <class Out>
void same(const std::vector<Out>& got, const Out* want, const char* what) {
    for (size_t i = 0; i < got.size(); i++)
        test::expect(test::same_bits(got[i], want[i]), "%s: number %zu is %.9g, not %.9g", what, i, double(to_float(got[i])), double(to_float(want[i])));
}

void arithmetic() {
    for (Kind kind : KINDS) {
        std::string who = kind == Kind::SMALL ? "gemm_small" : kind == Kind::TILE ? "gemm_tile" : kind == Kind::WIDE ? "gemm_wide" : "gemm_parts";
        test::fact((who + "_is_near_the_exact_product").c_str(), [=] {
            for (Shape shape : SHAPES) near_the_exact_product<float>(kind, shape, 0);
        });
        test::fact((who + "_rounds_once_to_bf16").c_str(), [=] {
            for (Shape shape : SHAPES) {
                Operands of(shape, Random(2));
                std::vector<float> full = product<float>(kind, of);
                std::vector<bf16> rounded;
                for (float number : full) rounded.push_back(to_bf16(number));
                same(product<bf16>(kind, of), rounded.data(), name(shape).c_str());
            }
        });
        test::fact((who + "_sums_in_the_order_that_is_written").c_str(), [=] {
            for (Shape shape : SHAPES) {
                Operands of(shape, Random(3));
                std::vector<float> want;
                for (int row = 0; row < shape.m; row++)
                    for (int feature = 0; feature < shape.n; feature++) want.push_back(as_defined(of, row, feature));
                same(product<float>(kind, of), want.data(), name(shape).c_str());
            }
        });
    }
}

/// Places of all pieces of 64 rows, and those that ldmatrix reads or cp.async writes at once.
template <int PIECES>
void no_bank_conflict() {
    std::vector<bool> taken(64 * PIECES);
    for (int first = 0; first < 64; first += 8)
        for (int piece = 0; piece < PIECES; piece++) {
            unsigned groups = 0;
            for (int row = first; row < first + 8; row++) {
                const int at = piece_at<PIECES>(row, piece);
                test::expect(at >= 0 && at < 64 * PIECES && !taken[size_t(at)], "%d pieces a row: the place of piece %d of row %d", PIECES, piece, row);
                taken[size_t(at)] = true, groups |= 1u << at % 8;
            }
            test::expect(groups == 0xff, "%d pieces a row: piece %d of rows %d.. is in groups of banks %x", PIECES, piece, first, groups);
        }
}

void layout() {
    test::fact("eight_rows_of_a_piece_lie_in_eight_groups_of_banks", [] {
        no_bank_conflict<2>(), no_bank_conflict<4>(), no_bank_conflict<8>(), no_bank_conflict<16>();
    });
}

void independence() {
    test::fact("a_row_has_the_same_bits_alone_and_among_64_in_all_products", [] {
        Operands of({64, 40, 648}, Random(4));
        std::vector<float> all = product<float>(Kind::SMALL, of);
        for (int m : {1, 2, 8, 9, 16, 17, 32, 33, 64})
            for (int from : {0, (64 - m) / 2, 64 - m}) {
                Operands some = some_rows(of, from, m);
                same(product<float>(Kind::SMALL, some), all.data() + from * 40, name(some.shape).c_str());
            }
        same(product<float>(Kind::TILE, of), all.data(), "tile");
        same(product<float>(Kind::WIDE, of), all.data(), "wide");
        for (unsigned parts : {1u, 2u, 3u, 4u, 7u, 8u}) same(product<float>(Kind::PARTS, of, parts), all.data(), "parts");
    });
    test::fact("segments_in_any_parts_have_the_same_bits_as_one_after_the_other", [] {
        // Inner dimensions with empty segments, of one chunk a segment, and the decoder's.
        for (int k : {8, 72, 320, 512, 1544, 4096, 5120, 14336}) {
            Operands of({70, 9, k}, Random(9));
            std::vector<float> want = product<float>(Kind::TILE, of);
            same(product<float>(Kind::WIDE, of), want.data(), "wide");
            same(product<float>(Kind::SMALL, some_rows(of, 3, 64)), want.data() + 3 * 9, "small");
            for (unsigned parts : {2u, 3u, 8u}) same(product<float>(Kind::PARTS, of, parts), want.data(), name(of.shape).c_str());
        }
    });
    test::fact("tiles_of_several_rows_and_features_are_joined_where_they_belong", [] {
        Operands of({259, 141, 1032}, Random(10));
        std::vector<float> want = product<float>(Kind::TILE, of);
        for (unsigned parts : {3u, 8u}) same(product<float>(Kind::PARTS, of, parts), want.data(), "parts");
    });
    test::fact("a_row_has_the_same_bits_in_every_row_tile", [] {
        Operands of({530, 24, 328}, Random(5));
        std::vector<float> tiles = product<float>(Kind::TILE, of);
        same(product<float>(Kind::WIDE, of), tiles.data(), "wide");
        for (int from : {0, 100, 127, 128, 255, 256, 383, 466}) {
            same(product<float>(Kind::SMALL, some_rows(of, from, 64)), tiles.data() + from * 24, "small");
        }
    });
    test::fact("features_are_the_same_in_every_tile_and_whatever_the_grid", [] {
        Operands of({5, 1100, 136}, Random(6)), many({70, 1100, 136}, Random(6));
        std::vector<float> want = product<float>(Kind::SMALL, of, 1);
        for (unsigned grid : {2u, 7u, 69u, 100u}) same(product<float>(Kind::SMALL, of, grid), want.data(), "grid");
        same(product<float>(Kind::TILE, of), want.data(), "tile");
        same(product<float>(Kind::WIDE, of), want.data(), "wide");
        std::vector<float> first = product<float>(Kind::TILE, many);
        same(product<float>(Kind::SMALL, some_rows(many, 6, 64), 3), first.data() + 6 * 1100, "more rows");
    });
    test::fact("more_row_tiles_than_a_group_are_all_computed", [] {
        Operands of({128 * 9 + 5, 136, 8}, Random(7));
        std::vector<float> tiles = product<float>(Kind::TILE, of);
        for (int row = 0; row < of.shape.m; row += 41)
            for (int feature = 0; feature < 136; feature++)
                test::expect(test::same_bits(tiles[size_t(row * 136 + feature)], as_defined(of, row, feature)), "row %d feature %d", row, feature);
        same(product<float>(Kind::WIDE, of), tiles.data(), "wide");
    });
    test::fact("what_is_not_finite_stays_in_its_row_and_its_feature", [] {
        for (Kind kind : KINDS) {
            Operands of({12, 40, 264}, Random(8));
            std::vector<float> clean = product<float>(kind, of);
            of.x[7 * 264 + 200] = {0x7fc0}, of.w[21 * 264 + 263] = {0x7f80};
            std::vector<float> out = product<float>(kind, of);
            for (size_t i = 0; i < out.size(); i++) {
                bool touched = i / 40 == 7 || i % 40 == 21;
                test::expect(touched ? !std::isfinite(out[i]) : test::same_bits(out[i], clean[i]), "number %zu is %g", i, out[i]);
            }
        }
    });
}

}  // namespace

int main() {
    layout();
    arithmetic();
    independence();
    return test::summary();
}
