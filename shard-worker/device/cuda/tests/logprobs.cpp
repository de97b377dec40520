// Facts about log-probabilities.
#include <algorithm>
#include <numeric>

#include "gathered.h"

namespace {
#include "../kernels/logits.cuh"

#include "../kernels/select.cuh"

#include "../kernels/token_weights.cuh"

#include "../kernels/logprobs.cuh"

/// A row's logits, the token described, and how many others.
struct Asked {
    std::vector<float> logits;
    u32 token, top;
};

/// What the kernel writes, with room for `most` tokens a row.
std::vector<std::vector<float>> run(const std::vector<Asked>& asked, int most, int parts) {
    test::Logits rows;
    std::vector<u32> tokens;
    std::vector<SampleRow> params;
    for (const Asked& row : asked) rows.push_back(row.logits), tokens.push_back(row.token), params.push_back({}), params.back().described = row.top;
    test::Gathered logits(rows, parts);
    test::Buffer<u32> ids(tokens);
    test::Buffer<SampleRow> row_params(params);
    size_t width = size_t(1 + 2 * most);
    test::Buffer<float> out(rows.size() * width);
    cpucuda::launch(unsigned(rows.size()), LOGIT_THREADS, 0, [&] {
        logprobs(logits.get(), parts, logits.rows, logits.part, logits.vocab, row_params.get(), ids.get(), most, out.get());
    });
    std::vector<std::vector<float>> written;
    for (size_t r = 0; r < rows.size(); r++) {
        // Places for more than were asked for, and rows for which nothing was, are left alone.
        for (size_t i = 0; i < width; i++) {
            bool used = asked[r].top != NONE && (i == 0 || (i - 1) % size_t(most) < asked[r].top);
            test::expect(used || out.untouched(r * width + i), "number %zu of row %zu", i, r);
        }
        written.push_back(test::row_of(out.get(), r, width));
    }
    return written;
}

double log_of_sum(const std::vector<float>& row) {
    double max = *std::max_element(row.begin(), row.end()), sum = 0;
    for (float l : row) sum += std::exp(double(l) - max);
    return max + std::log(sum);
}

void check(const Asked& asked, int most, const std::vector<float>& out) {
    const std::vector<float>& row = asked.logits;
    double sum = log_of_sum(row);
    auto wanted = [&](int id) { return double(row[size_t(id)]) - sum; };
    // A rounding to f32, and weights that are off by a few billionths.
    test::close(out[0], wanted(int(asked.token)), 5e-8, 7e-8, "token");
    std::vector<int> ids(row.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return row[size_t(a)] > row[size_t(b)]; });
    for (size_t i = 0; i < asked.top; i++) {
        u32 id = __float_as_uint(out[1 + i]);
        float value = out[1 + size_t(most) + i];
        if (i < ids.size()) {
            test::expect(int(id) == ids[i], "place %zu of %zu has %u, not %d", i, row.size(), id, ids[i]);
            test::close(value, wanted(ids[i]), 5e-8, 7e-8, "top", i);
        } else {
            test::expect(id == 0xffffffff && value == -INFINITY, "place %zu beyond the vocabulary", i);
        }
    }
}

Asked random_row(test::Random& random, int vocab, int most) {
    return {test::random_row(random, vocab), u32(random.between(0, vocab - 1)), u32(random.chance(0.2) ? 0 : random.between(1, most))};
}

void random_trials(int trials, int low, int high, uint64_t seed) {
    test::Random random(seed);
    for (int trial = 0; trial < trials; trial++) {
        int vocab = random.between(low, high), most = random.between(1, MAX_TOP);
        std::vector<Asked> rows;
        for (int r = random.between(1, 3); r > 0; r--) rows.push_back(random_row(random, vocab, most));
        std::vector<std::vector<float>> out = run(rows, most, random.between(1, 4));
        for (size_t r = 0; r < rows.size(); r++) check(rows[r], most, out[r]);
    }
}

}  // namespace

int main() {
    test::fact("logprobs_are_those_of_a_softmax_in_f64_ranked_with_ties_by_id", [] { random_trials(200, 1, 600, 1); });
    test::fact("logprobs_of_large_vocabularies_are_right", [] { random_trials(10, 5000, 40000, 2); });
    test::fact("a_row_alone_is_the_row_in_a_batch_however_many_parts", [] {
        test::Random random(3);
        for (int trial = 0; trial < 10; trial++) {
            int vocab = random.between(2, 9000), top = random.between(0, 20), most = random.between(20, MAX_TOP);
            std::vector<Asked> rows;
            for (int r = 0; r < 3; r++) rows.push_back(random_row(random, vocab, 20)), rows.back().top = u32(top);
            std::vector<std::vector<float>> batch = run(rows, most, 1);
            for (size_t r = 0; r < 3; r++) {
                // Where others ask for more there is more room; what is written is the same.
                std::vector<float> alone = run({rows[r]}, top, int(r) + 1)[0];
                size_t width = size_t(top);
                test::expect(test::same_bits(alone.data(), batch[r].data(), 1 + width), "ids of row %zu", r);
                test::expect(test::same_bits(alone.data() + 1 + width, batch[r].data() + 1 + most, width), "values of row %zu", r);
            }
        }
    });
    test::fact("rows_that_are_not_finite_and_tokens_that_are_not_there_give_nan", [] {
        for (float bad : {float(NAN), float(INFINITY)}) {
            std::vector<std::vector<float>> out = run({{{1, 2, 3}, 3, 2}, {{1, bad, 3}, 0, 2}, {{1, bad, 3}, 0, NONE}}, 2, 1);
            test::expect(std::isnan(out[0][0]) && !std::isnan(out[0][3]), "a token beyond the vocabulary");
            for (float number : out[1]) test::expect(std::isnan(number), "%g", double(number));
        }
    });
    test::fact("rows_that_ask_for_nothing_get_nothing", [] { run({{{1, 2, 3}, 0, NONE}, {{1, 2, 3}, 0, 0}, {{1, 2, 3}, 0, 3}}, 3, 2); });
    return test::summary();
}
