// Facts about log-probabilities.
#include <algorithm>
#include <numeric>

#include "gathered.h"

namespace {
#include "../kernels/logits.cuh"

#include "../kernels/select.cuh"

#include "../kernels/logprobs.cuh"

std::vector<float> run(const test::Logits& rows, const std::vector<int>& chosen, int top, int parts) {
    test::Gathered logits(rows, parts);
    test::Buffer<int> chosen_ids(chosen);
    test::Buffer<float> out(rows.size() * size_t(1 + 2 * top));
    cpucuda::launch(unsigned(rows.size()), LOGIT_THREADS, 0,
                    [&] { logprobs(logits.get(), parts, logits.rows, logits.part, logits.vocab, chosen_ids.get(), top, out.get()); });
    return out.copy();
}

double log_of_sum(const std::vector<float>& row) {
    double max = *std::max_element(row.begin(), row.end()), sum = 0;
    for (float l : row) sum += std::exp(double(l) - max);
    return max + std::log(sum);
}

void check(const std::vector<float>& row, int chosen, int top, const float* out) {
    double sum = log_of_sum(row);
    auto wanted = [&](int id) { return double(row[size_t(id)]) - sum; };
    test::close(out[0], wanted(chosen), 1e-7, 1e-6, "chosen");
    std::vector<int> ids(row.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return row[size_t(a)] > row[size_t(b)]; });
    for (size_t i = 0; i < size_t(top); i++) {
        u32 id = __float_as_uint(out[1 + i]);
        float value = out[1 + size_t(top) + i];
        if (i < ids.size()) {
            test::expect(int(id) == ids[i], "place %zu of %zu has %u, not %d", i, row.size(), id, ids[i]);
            test::close(value, wanted(ids[i]), 1e-7, 1e-6, "top", i);
        } else {
            test::expect(id == 0xffffffff && value == -INFINITY, "place %zu beyond the vocabulary", i);
        }
    }
}

void random_trials(int trials, int low, int high, uint64_t seed) {
    test::Random random(seed);
    for (int trial = 0; trial < trials; trial++) {
        int vocab = random.between(low, high), top = random.chance(0.2) ? 0 : random.between(1, random.chance(0.1) ? MAX_TOP : 25);
        test::Logits rows;
        std::vector<int> chosen;
        for (int r = random.between(1, 3); r > 0; r--) rows.push_back(test::random_row(random, vocab)), chosen.push_back(random.between(0, vocab - 1));
        std::vector<float> out = run(rows, chosen, top, random.between(1, 4));
        for (size_t r = 0; r < rows.size(); r++) check(rows[r], chosen[r], top, out.data() + r * size_t(1 + 2 * top));
    }
}

}  // namespace

int main() {
    test::fact("logprobs_are_those_of_a_softmax_in_f64_ranked_with_ties_by_id", [] { random_trials(200, 1, 600, 1); });
    test::fact("logprobs_of_large_vocabularies_are_right", [] { random_trials(10, 5000, 40000, 2); });
    test::fact("a_row_alone_is_the_row_in_a_batch_however_many_parts", [] {
        test::Random random(3);
        for (int trial = 0; trial < 10; trial++) {
            int vocab = random.between(2, 9000), top = random.between(0, 20);
            test::Logits rows;
            std::vector<int> chosen;
            for (int r = 0; r < 3; r++) rows.push_back(test::random_row(random, vocab)), chosen.push_back(random.between(0, vocab - 1));
            std::vector<float> batch = run(rows, chosen, top, 1);
            size_t width = size_t(1 + 2 * top);
            for (size_t r = 0; r < 3; r++) {
                std::vector<float> alone = run({rows[r]}, {chosen[r]}, top, int(r) + 1);
                test::expect(test::same_bits(alone.data(), batch.data() + r * width, width), "row %zu", r);
            }
        }
    });
    test::fact("rows_that_are_not_finite_and_tokens_that_are_not_there_give_nan", [] {
        for (float bad : {float(NAN), float(INFINITY)}) {
            std::vector<float> out = run({{1, 2, 3}, {1, bad, 3}}, {3, 0}, 2, 1);
            test::expect(std::isnan(out[0]) && !std::isnan(out[3]), "a token beyond the vocabulary");
            for (size_t i = 5; i < 10; i++) test::expect(std::isnan(out[i]), "number %zu", i - 5);
        }
    });
    return test::summary();
}
