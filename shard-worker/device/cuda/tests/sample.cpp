// Facts about choosing tokens: weights against the exponential, choices against a plain rendering of
// shard-worker/model/src/sampling, and against sorting with the kernel's own fixed-point weights, where the token must be the
// same every time.
#include <algorithm>
#include <numeric>

#include "gathered.h"

namespace {
#include "../kernels/logits.cuh"

#include "../kernels/select.cuh"

#include "../kernels/token_weights.cuh"

#include "../kernels/sample.cuh"

using Ids = std::vector<int>;

struct Outcome {
    std::vector<u32> tokens;
    std::vector<int> finite;
};

Outcome run(const test::Logits& rows, const std::vector<SampleRow>& params, int parts) {
    test::Gathered logits(rows, parts);
    test::Buffer<SampleRow> row_params(params);
    test::Buffer<u32> tokens(rows.size());
    test::Buffer<int> finite(rows.size());
    cpucuda::launch(unsigned(rows.size()), LOGIT_THREADS, 0, [&] {
        sample(logits.get(), parts, logits.rows, logits.part, logits.vocab, row_params.get(), tokens.get(), finite.get());
    });
    return {tokens.copy(), finite.copy()};
}

int argmax(const std::vector<float>& logits) {
    int best = 0;
    for (size_t id = 0; id < logits.size(); id++)
        if (logits[id] > logits[size_t(best)]) best = int(id);
    return best;
}

/// What a filter or a draw goes by, in f64.
struct Shares {
    double uniform, top_p, min_p;
};

/// The sampler of the CPU, by full sorts in f64. Where f64 makes equal weights of unequal logits the CPU goes by id, the
/// device by logit; so does this.
int plain(const std::vector<float>& logits, const SampleRow& p, Shares shares) {
    int best = argmax(logits);
    if (p.temperature == 0) return best;
    std::vector<double> weights;
    for (float l : logits) weights.push_back(std::exp((double(l) - double(logits[size_t(best)])) / double(p.temperature)));
    Ids ids;
    for (size_t id = 0; id < weights.size(); id++)
        if (weights[id] >= shares.min_p) ids.push_back(int(id));
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return std::pair(weights[size_t(a)], logits[size_t(a)]) > std::pair(weights[size_t(b)], logits[size_t(b)]); });
    if (p.top_k > 0 && p.top_k < ids.size()) ids.resize(p.top_k);
    auto sum = [&] { return std::accumulate(ids.begin(), ids.end(), 0.0, [&](double s, int id) { return s + weights[size_t(id)]; }); };
    if (p.top_p < 1) {
        double mass = shares.top_p * sum(), reached = 0;
        size_t kept = 0;
        while (kept < ids.size() && reached < mass) reached += weights[size_t(ids[kept++])];
        ids.resize(std::max<size_t>(kept, 1));
    }
    std::sort(ids.begin(), ids.end());
    double target = shares.uniform * sum(), passed = 0;
    for (int id : ids)
        if ((passed += weights[size_t(id)]) > target) return id;
    return best;
}

/// `part` of 2^64 of `whole`, rounded down.
u64 share(u64 part, u64 whole) { return u64(static_cast<unsigned __int128>(part) * whole >> 64); }

/// The same with the kernel's weights.
int exact(const std::vector<float>& logits, const SampleRow& p) {
    int best = argmax(logits);
    if (p.temperature == 0) return best;
    std::vector<u64> weights;
    Ids ids;
    for (size_t id = 0; id < logits.size(); id++) {
        weights.push_back(Weights(logits[size_t(best)], p.temperature)(logit_key(logits[id])));
        if (weights[id] > 0 && double(weights[id]) >= double(p.min_p) * 0x1p40) ids.push_back(int(id));
    }
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return logits[size_t(a)] > logits[size_t(b)]; });
    if (p.top_k > 0 && p.top_k < ids.size()) ids.resize(p.top_k);
    auto sum = [&] { return std::accumulate(ids.begin(), ids.end(), u64(0), [&](u64 s, int id) { return s + weights[size_t(id)]; }); };
    if (p.top_p < 1) {
        u64 mass = std::max<u64>(share(u64(double(p.top_p) * 0x1p64), sum()), 1), reached = 0;
        size_t kept = 0;
        while (kept < ids.size() && reached < mass) reached += weights[size_t(ids[kept++])];
        ids.resize(kept);
    }
    std::sort(ids.begin(), ids.end());
    u64 target = share(p.uniform, sum()), passed = 0;
    for (int id : ids)
        if ((passed += weights[size_t(id)]) > target) return id;
    return -1;
}

/// A share of [0, 1), as the kernel takes it.
u64 fraction(double share) { return u64(share * 0x1p64); }

SampleRow random_params(test::Random& random, int vocab) {
    SampleRow p = {};
    p.temperature = 1;
    p.top_p = 1;
    p.given = p.described = NONE;
    p.uniform = fraction(random.chance(0.1) ? 0 : random.chance(0.1) ? 1 - 0x1p-53 : random.share());
    if (random.chance(0.8)) p.temperature = random.chance(0.2) ? 0 : float(std::pow(10, random.share() * 4 - 2));
    if (random.chance(0.5)) p.top_k = u32(random.between(1, random.chance(0.5) ? 8 : vocab + 2));
    if (random.chance(0.5)) p.top_p = float(random.chance(0.2) ? std::pow(10, random.between(-30, -9)) : random.chance(0.2) ? 0.9999 : random.share());
    if (random.chance(0.3)) p.min_p = float(random.chance(0.1) ? 1 : random.share() * random.share());
    return p;
}

void describe(char (&text)[256], const SampleRow& p, size_t vocab) {
    snprintf(text, sizeof text, "vocab %zu, T %g, k %u, p %g, min %g, u %.17g", vocab, double(p.temperature), p.top_k, double(p.top_p), double(p.min_p), double(p.uniform) * 0x1p-64);
}

/// Whether `token` is what the CPU chooses but for four billionths of the draw or of `min_p`, or a rounding of `top_p`. What
/// is drawn rises with `uniform`.
bool plain_to_four_billionths(const std::vector<float>& logits, const SampleRow& p, int token) {
    const double uniform = double(p.uniform) * 0x1p-64, near = 4e-9;
    for (double floor : {1.0, 1 - near, 1 + near})
        for (double share : {1.0, 1 - 0x1p-23, 1 + 0x1p-23}) {
            Shares shares = {std::max(uniform - near, 0.0), double(p.top_p) * share, std::min(double(p.min_p) * floor, 1.0)};
            int low = plain(logits, p, shares);
            shares.uniform = std::min(uniform + near, 1 - 0x1p-53);
            if (low <= token && token <= plain(logits, p, shares)) return true;
        }
    return false;
}

void random_trials(int trials, int vocab_low, int vocab_high, uint64_t seed) {
    test::Random random(seed);
    for (int trial = 0; trial < trials; trial++) {
        int vocab = random.between(vocab_low, vocab_high);
        test::Logits rows;
        std::vector<SampleRow> params;
        for (int r = random.between(1, 3); r > 0; r--) {
            rows.push_back(test::random_row(random, vocab));
            params.push_back(random_params(random, vocab));
        }
        Outcome got = run(rows, params, random.between(1, 4));
        for (size_t r = 0; r < rows.size(); r++) {
            char text[256];
            describe(text, params[r], rows[r].size());
            int token = int(got.tokens[r]);
            test::expect(got.finite[r] == 1, "not finite: %s", text);
            test::expect(token == exact(rows[r], params[r]), "%d, not %d: %s", token, exact(rows[r], params[r]), text);
            test::expect(plain_to_four_billionths(rows[r], params[r], token), "%d is not what the CPU chooses: %s", token, text);
        }
    }
}

/// A weight of what lies `(logit - best) / temperature` below the best, by a wider exponential.
long double exponential(float logit, float best, float temperature) {
    return 0x1p40L * std::exp((static_cast<long double>(logit) - static_cast<long double>(best)) / static_cast<long double>(temperature));
}

void check_weight(float logit, float best, float temperature) {
    u64 got = Weights(best, temperature)(logit_key(logit));
    long double wanted = exponential(logit, best, temperature), error = std::fabs(static_cast<long double>(got) - wanted);
    test::expect(error <= 0.501L + 2e-9L * wanted, "%llu, not %.3Lf: %.9g below %.9g at %g", got, wanted, double(logit), double(best), double(temperature));
}

void weighing() {
    test::fact("weights_are_exponentials_within_two_billionths_or_half_a_unit", [] {
        test::Random random(9);
        for (int trial = 0; trial < 2000000; trial++) {
            float temperature = float(std::pow(10, random.share() * (random.chance(0.1) ? 46 : 4) - (random.chance(0.1) ? 44 : 2)));
            float best = random.around(random.chance(0.3) ? 1e3f : 20), below = temperature * float(random.share() * (random.chance(0.2) ? 1e-3 : 30));
            if (temperature > 0 && temperature <= 100) check_weight(std::min(best, best - below), best, temperature);
        }
    });
    test::fact("the_best_token_weighs_one_and_what_is_far_away_nothing", [] {
        for (float temperature : {1e-45f, 1e-38f, 1e-5f, 1.0f, 100.0f})
            for (float best : {-3e38f, -1.0f, 0.0f, 1e-45f, 7.0f, 3e38f}) {
                Weights weights(best, temperature);
                test::expect(weights(logit_key(best)) == u64(1) << 40, "%g at %g", double(best), double(temperature));
                for (float logit : {-INFINITY, -3.4e38f})
                    test::expect(logit == best || weights(logit_key(logit)) == 0, "%g below %g at %g", double(logit), double(best), double(temperature));
            }
    });
}

void choosing() {
    test::fact("sample_chooses_what_the_cpu_chooses_for_random_parameters", [] { random_trials(600, 2, 300, 1); });
    test::fact("sample_chooses_what_the_cpu_chooses_in_large_vocabularies", [] { random_trials(40, 4000, 20000, 2); });
    test::fact("sample_chooses_what_the_cpu_chooses_beyond_one_look_of_the_block_a_warp", [] { random_trials(4, 140000, 150000, 3); });
    test::fact("the_best_logit_is_found_wherever_it_lies", [] {
        // A row for each of the looks of the block.
        const int vocab = 70001;
        test::Logits rows;
        for (int best = 17; best < vocab; best += 4096) rows.emplace_back(vocab, -1.0f), rows.back()[size_t(best)] = 1;
        SampleRow greedy = {};
        greedy.given = NONE;
        Outcome got = run(rows, std::vector<SampleRow>(rows.size(), greedy), 1);
        for (size_t r = 0; r < rows.size(); r++) test::expect(got.tokens[r] == u32(17 + 4096 * r), "row %zu: token %u", r, got.tokens[r]);
    });
    test::fact("a_vocabulary_of_one_token_has_one_choice", [] {
        test::Random random(4);
        for (int trial = 0; trial < 20; trial++) test::expect(run({{-3}}, {random_params(random, 1)}, 1).tokens[0] == 0, "trial %d", trial);
    });
    test::fact("a_share_of_one_draws_the_last_token_kept", [] {
        SampleRow p = {};
        p.temperature = p.top_p = 1, p.uniform = ~u64(0), p.top_k = 3, p.given = NONE;
        test::expect(run({{5, 4, 1, 3, 2}}, {p}, 1).tokens[0] == 3, "another token");
    });
    test::fact("draws_follow_the_distribution", [] {
        test::Random random(5);
        const std::vector<float> row = {0, 1, 2, -INFINITY, 1.5f};
        test::Logits rows(2000, row);
        std::vector<SampleRow> params(rows.size());
        for (SampleRow& p : params) p.temperature = 1, p.top_p = 1, p.uniform = fraction(random.share()), p.given = NONE;
        Outcome got = run(rows, params, 2);
        double total = 0;
        for (float l : row) total += std::exp(double(l));
        for (size_t id = 0; id < row.size(); id++) {
            double seen = double(std::count(got.tokens.begin(), got.tokens.end(), u32(id))) / double(rows.size());
            test::close(seen, std::exp(double(row[id])) / total, 0.04, 0, "share", id);
        }
    });
}

void special() {
    test::fact("what_is_no_number_is_told_and_spoils_no_other_row", [] {
        test::Random random(6);
        for (int vocab : {2, 5, 1030})
            for (float bad : {float(NAN), -float(NAN), float(INFINITY), -float(INFINITY)}) {
                std::vector<float> good = test::random_row(random, vocab), spoilt = good;
                if (bad == -INFINITY)
                    spoilt.assign(size_t(vocab), bad);
                else
                    spoilt[size_t(random.between(0, vocab - 1))] = bad;
                std::vector<SampleRow> params = {random_params(random, vocab), random_params(random, vocab), random_params(random, vocab)};
                Outcome got = run({good, spoilt, good}, params, 2);
                test::expect(got.finite == std::vector<int>({1, 0, 1}), "finite of %g in %d", double(bad), vocab);
                test::expect(got.tokens[1] == 0 && int(got.tokens[2]) == exact(good, params[2]), "tokens of %g in %d", double(bad), vocab);
            }
    });
    test::fact("a_token_that_is_given_is_the_rows_where_its_logits_are_numbers", [] {
        SampleRow p = {};
        p.temperature = p.top_p = 1, p.given = 2;
        Outcome got = run({{5, 4, 1}, {5, NAN, 1}}, {p, p}, 1);
        test::expect(got.tokens == std::vector<u32>({2, 0}) && got.finite == std::vector<int>({1, 0}), "%u, %u", got.tokens[0], got.tokens[1]);
    });
    test::fact("a_row_alone_is_the_row_in_a_batch_however_many_parts", [] {
        test::Random random(7);
        for (int trial = 0; trial < 30; trial++) {
            int vocab = random.between(2, 3000);
            test::Logits rows;
            std::vector<SampleRow> params;
            for (int r = 0; r < 4; r++) rows.push_back(test::random_row(random, vocab)), params.push_back(random_params(random, vocab));
            Outcome batch = run(rows, params, 1);
            for (size_t r = 0; r < 4; r++)
                test::expect(run({rows[r]}, {params[r]}, int(r) * 2 + 1).tokens[0] == batch.tokens[r], "row %zu", r);
        }
    });
}

/// What shard-worker/model/src/sampling does to one logit.
float edited(float logit, const SampleEdit& edit, const SampleRow& p) {
    if (edit.flags & 1 && logit < INFINITY) logit = -INFINITY;
    logit += edit.bias;
    if (edit.flags & 2) {
        logit = logit > 0 ? logit / p.repetition : logit * p.repetition;
        if (edit.count > 0) {
            logit -= p.frequency * float(edit.count);
            logit -= p.presence;
        }
    }
    return logit;
}

void edits() {
    test::fact("edits_mask_bias_and_penalise_the_tokens_named_and_no_other_and_are_undone", [] {
        test::Random random(8);
        for (int trial = 0; trial < 60; trial++) {
            int vocab = random.between(1, 2000), parts = random.between(1, 4);
            test::Logits rows;
            std::vector<SampleRow> params;
            std::vector<SampleEdit> all = {{0, 1e9f, 1, 1}};  // nobody's
            for (int r = random.between(1, 3); r > 0; r--) {
                rows.push_back(test::random_row(random, vocab));
                if (random.chance(0.2)) rows.back()[size_t(random.between(0, vocab - 1))] = random.chance(0.5) ? NAN : INFINITY;
                SampleRow p = random_params(random, vocab);
                p.repetition = random.around(1) + 1.5f, p.frequency = random.around(2), p.presence = random.around(2);
                p.edits_begin = u32(all.size());
                for (int id = 0; id < vocab; id++)
                    if (random.chance(0.3)) all.push_back({u32(id), random.chance(0.5) ? 0 : random.around(100), random.between(0, 3), u32(random.between(0, 3))});
                p.edits_end = u32(all.size());
                params.push_back(p);
            }
            test::Gathered logits(rows, parts);
            test::Buffer<SampleRow> row_params(params);
            test::Buffer<SampleEdit> edit_buffer(all);
            cpucuda::launch(unsigned(rows.size()), 256, 0, [&] { edit_logits(logits.get(), parts, logits.rows, logits.part, row_params.get(), edit_buffer.get()); });
            test::Logits changed = rows;
            auto is = [&](const test::Logits& wanted, const char* when) {
                for (size_t r = 0; r < rows.size(); r++)
                    for (int id = 0; id < vocab; id++) {
                        float got = logits.at(int(r), id), want = wanted[r][size_t(id)];
                        test::expect(test::same_bits(got, want) || (std::isnan(got) && std::isnan(want)), "%s, row %zu, id %d: %g, not %g", when, r, id, double(got), double(want));
                    }
            };
            for (size_t r = 0; r < rows.size(); r++)
                for (u32 i = params[r].edits_begin; i < params[r].edits_end; i++) changed[r][all[i].token] = edited(rows[r][all[i].token], all[i], params[r]);
            is(changed, "edited");
            cpucuda::launch(unsigned(rows.size()), 256, 0, [&] { restore_logits(logits.get(), parts, logits.rows, logits.part, row_params.get(), edit_buffer.get()); });
            is(rows, "restored");
        }
    });
}

}  // namespace

int main() {
    weighing();
    choosing();
    special();
    edits();
    return test::summary();
}
