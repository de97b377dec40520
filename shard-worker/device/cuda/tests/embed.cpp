// Facts about looking rows up.
#include "harness.h"

namespace {
#include "../kernels/rows.cuh"

#include "../kernels/embed.cuh"

const int COLUMNS[] = {1, 3, 8, 17, 64, 100, 2048, 2056, 5120};

void embedding() {
    test::fact("embed_finds_held_rows_zeroes_others_and_leaves_images_alone", [] {
        test::Random random(1);
        for (int dim : COLUMNS) {
            int first = random.between(0, 50), held = random.between(1, 20), rows = random.between(1, 12);
            test::Buffer<bf16> table(test::random_bf16(random, size_t(held * dim)));
            std::vector<int> ids = {first, first + held - 1, first + held, first - 1, -1};
            while (int(ids.size()) < rows) ids.push_back(random.between(-1, first + 2 * held));
            test::Buffer<int> tokens(ids);
            test::Buffer<float> x(ids.size() * size_t(dim));
            dim3 grid(unsigned(ids.size()), unsigned(random.between(1, 3)));
            cpucuda::launch(grid, 256, 0, [&] { embed(table.get(), first, held, tokens.get(), x.get(), dim); });
            for (size_t r = 0; r < ids.size(); r++)
                for (size_t i = 0; i < size_t(dim); i++) {
                    size_t at = r * size_t(dim) + i;
                    int row = ids[r] - first;
                    if (ids[r] < 0)
                        test::expect(x.untouched(at), "row %zu of no token was written", r);
                    else
                        test::close(x[at], row >= 0 && row < held ? to_float(table[size_t(row * dim) + i]) : 0, 0, 0, "x", at);
                }
        }
    });
}

/// Copies random rows to random other rows, and looks at every number of `out`.
template <class T, class U>
void copies(void (*kernel)(const T*, const int*, U*, const int*, int), std::vector<T> (*numbers)(test::Random&, size_t, float)) {
    test::Random random(2);
    for (int cols : COLUMNS) {
        int there = random.between(1, 9), out_rows = random.between(1, 9);
        test::Buffer<T> from(numbers(random, size_t(there * cols), 3));
        test::Buffer<U> out(size_t(out_rows * cols));
        std::vector<int> rows, to;
        for (int r = 0; r < out_rows; r++)
            if (random.chance(0.6) || (r + 1 == out_rows && to.empty())) rows.push_back(random.between(0, there - 1)), to.push_back(r);
        test::Buffer<int> rows_buffer(rows), to_buffer(to);
        dim3 grid(unsigned(to.size()), unsigned(random.between(1, 2)));
        cpucuda::launch(grid, 256, 0, [&] { kernel(from.get(), rows_buffer.get(), out.get(), to_buffer.get(), cols); });
        std::vector<int> source(size_t(out_rows), -1);
        for (size_t i = 0; i < to.size(); i++) source[size_t(to[i])] = rows[i];
        for (size_t at = 0; at < out.size(); at++) {
            int row = source[at / size_t(cols)];
            if (row < 0)
                test::expect(out.untouched(at), "number %zu was written", at);
            else
                test::close(to_float(out[at]), to_float(from[size_t(row * cols) + at % size_t(cols)]), 0, 0, "out", at);
        }
    }
}

}  // namespace

int main() {
    embedding();
    test::fact("copy_rows_ff_copies_the_rows_named_and_no_other", [] { copies(copy_rows_ff, test::random_floats); });
    test::fact("copy_rows_wf_widens_the_rows_named_and_no_other", [] { copies(copy_rows_wf, test::random_bf16); });
    test::fact("copy_rows_ww_copies_the_rows_named_and_no_other", [] { copies(copy_rows_ww, test::random_bf16); });
    return test::summary();
}
