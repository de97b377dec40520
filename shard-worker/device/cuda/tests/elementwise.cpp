// Facts about what is done number by number.
#include <algorithm>

#include "harness.h"

namespace {
#include "../kernels/rows.cuh"

#include "../kernels/elementwise.cuh"

const int COLUMNS[] = {1, 3, 8, 17, 100, 1024, 2048, 2056};
const size_t LENGTHS[] = {1, 2, 3, 4, 5, 1023, 1024, 1025, 1026, 4099};

unsigned blocks(size_t n) { return unsigned((n + 1023) / 1024); }

/// The nearest multiple of a bf16's unit in the last place, by the rounding of f64.
u16 nearest_bf16(float x) {
    if (std::isnan(x)) return 0x7fff;
    if (std::isinf(x)) return u16(__float_as_uint(x) >> 16);
    int exponent = 0;
    std::frexp(x, &exponent);
    double unit = std::ldexp(1, std::max(exponent - 8, -133));
    return u16(__float_as_uint(float(std::nearbyint(double(x) / unit) * unit)) >> 16);
}

void numbers() {
    test::fact("add_adds_every_number_and_no_more", [] {
        test::Random random(1);
        for (size_t n : LENGTHS) {
            std::vector<float> given = test::random_floats(random, n, 10);
            test::Buffer<float> x(given);
            test::Buffer<bf16> delta(test::random_bf16(random, n, 10));
            cpucuda::launch(blocks(n), 256, 0, [&] { add(x.get(), delta.get(), (long long)n); });
            for (size_t i = 0; i < n; i++) test::expect(test::same_bits(x[i], given[i] + to_float(delta[i])), "number %zu of %zu", i, n);
        }
    });
    test::fact("widen_and_narrow_convert_every_number_to_nearest_even", [] {
        test::Random random(2);
        for (size_t n : LENGTHS) {
            std::vector<float> given = test::random_floats(random, n, 1e4f);
            given[0] = NAN;
            if (n > 2) given[1] = __uint_as_float(0x3f808000), given[2] = -INFINITY;
            if (n > 4) given[3] = 3.4e38f, given[4] = __uint_as_float(0x00018000);
            test::Buffer<float> x(given), back(n);
            test::Buffer<bf16> y(n);
            cpucuda::launch(blocks(n), 256, 0, [&] { narrow(x.get(), y.get(), (long long)n); });
            cpucuda::launch(blocks(n), 256, 0, [&] { widen(y.get(), back.get(), (long long)n); });
            for (size_t i = 0; i < n; i++) {
                test::expect(y[i].bits == nearest_bf16(given[i]), "narrow %zu of %zu", i, n);
                test::expect(__float_as_uint(back[i]) == u32(y[i].bits) << 16, "widen %zu of %zu", i, n);
            }
        }
    });
    test::fact("nothing_is_written_of_no_numbers", [] {
        test::Buffer<float> x(4);
        test::Buffer<bf16> y(4);
        cpucuda::launch(1, 256, 0, [&] { add(x.get(), y.get(), 0); });
        cpucuda::launch(1, 256, 0, [&] { widen(y.get(), x.get(), 0); });
        cpucuda::launch(1, 256, 0, [&] { narrow(x.get(), y.get(), 0); });
        test::expect(x.all_untouched() && y.all_untouched(), "something was written");
    });
}

void rows_of_columns() {
    test::fact("add_bias_adds_the_bias_to_every_row", [] {
        test::Random random(3);
        for (int cols : COLUMNS) {
            size_t rows = size_t(random.between(1, 4));
            std::vector<bf16> given = test::random_bf16(random, rows * size_t(cols));
            test::Buffer<bf16> x(given);
            test::Buffer<float> bias(test::random_floats(random, size_t(cols)));
            cpucuda::launch(dim3(unsigned(rows), unsigned(random.between(1, 3))), 256, 0, [&] { add_bias(x.get(), bias.get(), cols); });
            for (size_t i = 0; i < given.size(); i++)
                test::expect(x[i].bits == nearest_bf16(to_float(given[i]) + bias[i % size_t(cols)]), "number %zu", i);
        }
    });
    test::fact("swiglu_is_silu_of_gate_times_up_and_a_row_alone_is_the_row_in_a_batch", [] {
        test::Random random(4);
        for (int ffn : COLUMNS) {
            size_t rows = size_t(random.between(1, 4)), f = size_t(ffn);
            test::Buffer<bf16> gate_up(test::random_bf16(random, rows * 2 * f, 12)), out(rows * f);
            cpucuda::launch(dim3(unsigned(rows), unsigned(random.between(1, 3))), 256, 0, [&] { swiglu(gate_up.get(), out.get(), ffn); });
            for (size_t i = 0; i < out.size(); i++) {
                double gate = to_float(gate_up[i / f * 2 * f + i % f]), up = to_float(gate_up[i / f * 2 * f + f + i % f]);
                test::close(to_float(out[i]), gate / (1 + std::exp(-gate)) * up, 1e-37, test::BF16_ROUNDING + 1e-6, "out", i);
            }
            test::Buffer<bf16> last(test::row_of(gate_up.get(), rows - 1, 2 * f)), alone(f);
            cpucuda::launch(1, 256, 0, [&] { swiglu(last.get(), alone.get(), ffn); });
            test::expect(test::same_bits(alone.get(), out.get() + (rows - 1) * f, f), "a row alone differs");
        }
    });
    test::fact("swiglu_of_the_largest_gates_is_a_number", [] {
        const float gates[] = {-3e38f, 3e38f, -100, 0, -0.0f};
        std::vector<bf16> given;
        for (float gate : gates) given.push_back(to_bf16(gate));
        given.resize(10, to_bf16(1));
        test::Buffer<bf16> gate_up(given), out(5);
        cpucuda::launch(1, 256, 0, [&] { swiglu(gate_up.get(), out.get(), 5); });
        for (size_t i = 0; i < 5; i++) test::close(to_float(out[i]), gates[i] > 0 ? to_float(given[i]) : 0, 1e-37, 0, "out", i);
    });
    test::fact("gelu_bias_is_the_exact_gelu_with_and_without_a_bias_and_a_row_alone_is_the_row_in_a_batch", [] {
        test::Random random(5);
        for (int cols : COLUMNS)
            for (bool with : {false, true}) {
                size_t rows = size_t(random.between(1, 4));
                std::vector<bf16> given = test::random_bf16(random, rows * size_t(cols), 8);
                test::Buffer<bf16> x(given);
                test::Buffer<float> bias(test::random_floats(random, size_t(cols)));
                dim3 grid(unsigned(rows), unsigned(random.between(1, 3)));
                cpucuda::launch(grid, 256, 0, [&] { gelu_bias(x.get(), with ? bias.get() : nullptr, cols); });
                for (size_t i = 0; i < given.size(); i++) {
                    float y = to_float(given[i]) + (with ? bias[i % size_t(cols)] : 0);
                    test::close(to_float(x[i]), y * 0.5 * std::erfc(-double(y) / std::sqrt(2.0)), 1e-35, test::BF16_ROUNDING + 2e-5, "x", i);
                }
                test::Buffer<bf16> last(test::row_of(given.data(), rows - 1, size_t(cols)));
                cpucuda::launch(1, 256, 0, [&] { gelu_bias(last.get(), with ? bias.get() : nullptr, cols); });
                test::expect(test::same_bits(last.get(), x.get() + (rows - 1) * size_t(cols), size_t(cols)), "a row alone differs");
            }
    });
}

}  // namespace

int main() {
    numbers();
    rows_of_columns();
    return test::summary();
}
