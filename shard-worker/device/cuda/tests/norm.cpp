// Facts about RMS normalisation.
#include "harness.h"

namespace {
#include "../kernels/rows.cuh"

#include "../kernels/elementwise.cuh"
#include "../kernels/norm.cuh"

constexpr float EPS = 1e-5f;
const int COLUMNS[] = {1, 3, 8, 17, 100, 1000, 2048, 2056, 5120, 8192};

/// `x / sqrt(mean(x^2) + eps) * scale` of a row, in f64.
std::vector<double> reference(const float* x, const float* scale, int cols) {
    double squares = 0;
    for (int i = 0; i < cols; i++) squares += double(x[i]) * x[i];
    std::vector<double> out;
    for (int i = 0; i < cols; i++) out.push_back(x[i] / std::sqrt(squares / cols + double(EPS)) * scale[i]);
    return out;
}

template <class U>
void norm(void (*kernel)(const float*, const float*, U*, int, float), double rounding) {
    test::Random random(1);
    for (int cols : COLUMNS) {
        size_t rows = size_t(random.between(1, 4));
        // Sizes from far below the epsilon to far above it.
        test::Buffer<float> x(test::random_floats(random, rows * size_t(cols), float(std::pow(10, random.between(-4, 3)))));
        test::Buffer<float> scale(test::random_floats(random, size_t(cols), 2));
        test::Buffer<U> out(rows * size_t(cols)), alone{size_t(cols)};
        cpucuda::launch(unsigned(rows), 256, 0, [&] { kernel(x.get(), scale.get(), out.get(), cols, EPS); });
        for (size_t r = 0; r < rows; r++) {
            std::vector<double> wanted = reference(x.get() + r * size_t(cols), scale.get(), cols);
            for (size_t i = 0; i < size_t(cols); i++) test::close(to_float(out[r * size_t(cols) + i]), wanted[i], 1e-30, rounding + 1e-6, "out", i);
        }
        test::Buffer<float> last(test::row_of(x.get(), rows - 1, size_t(cols)));
        cpucuda::launch(1, 256, 0, [&] { kernel(last.get(), scale.get(), alone.get(), cols, EPS); });
        test::expect(test::same_bits(alone.get(), out.get() + (rows - 1) * size_t(cols), size_t(cols)), "a row alone differs");
    }
}

void fused() {
    test::fact("add_rms_norm_has_the_bits_of_add_and_rms_norm", [] {
        test::Random random(2);
        for (int cols : COLUMNS) {
            size_t rows = size_t(random.between(1, 4)), n = rows * size_t(cols);
            std::vector<float> given = test::random_floats(random, n, 5);
            test::Buffer<float> x(given), apart(given), scale(test::random_floats(random, size_t(cols), 2));
            test::Buffer<bf16> delta(test::random_bf16(random, n, 5)), out(n), out_apart(n);
            cpucuda::launch(unsigned(rows), 256, 0, [&] { add_rms_norm(x.get(), delta.get(), scale.get(), out.get(), cols, EPS); });
            cpucuda::launch(unsigned((n + 1023) / 1024), 256, 0, [&] { add(apart.get(), delta.get(), (long long)n); });
            cpucuda::launch(unsigned(rows), 256, 0, [&] { rms_norm_fw(apart.get(), scale.get(), out_apart.get(), cols, EPS); });
            test::expect(test::same_bits(x.get(), apart.get(), n), "sums of %d columns", cols);
            test::expect(test::same_bits(out.get(), out_apart.get(), n), "norms of %d columns", cols);
            for (size_t i = 0; i < n; i++) test::close(x[i], double(given[i]) + to_float(delta[i]), 0, 1e-7, "x", i);
        }
    });
    test::fact("a_row_of_nan_spoils_no_other", [] {
        const int cols = 24;
        std::vector<float> given(2 * cols, 1.0f);
        given[3] = NAN;
        test::Buffer<float> x(given), scale(std::vector<float>(cols, 1.0f)), out(2 * cols);
        cpucuda::launch(2, 256, 0, [&] { rms_norm_ff(x.get(), scale.get(), out.get(), cols, EPS); });
        for (size_t i = 0; i < 2 * cols; i++) test::close(out[i], i < cols ? NAN : 1 / std::sqrt(1 + double(EPS)), 0, 1e-6, "out", i);
    });
}

}  // namespace

int main() {
    test::fact("rms_norm_fw_is_the_norm_in_f64_and_a_row_alone_is_the_row_in_a_batch", [] { norm(rms_norm_fw, test::BF16_ROUNDING); });
    test::fact("rms_norm_ff_is_the_norm_in_f64_and_a_row_alone_is_the_row_in_a_batch", [] { norm(rms_norm_ff, 0); });
    fused();
    return test::summary();
}
