// Facts about attention: over the paged cache, of bf16 and of e4m3, row by row and chunk by chunk, and over images.
#include <numeric>

#include "e4m3.h"

namespace {
#include "../kernels/cache.cuh"
#include "../kernels/pieces.cuh"
#include "../kernels/attention.cuh"
#include "../kernels/attention_split.cuh"
#include "../kernels/attention_chunk.cuh"

using test::Buffer;
using test::Random;

struct Heads {
    int heads, kv_heads;
    int group() const { return heads / kv_heads; }
    int row() const { return heads + 2 * kv_heads; }
};

/// A head's numbers of a token, which count `scale` times.
struct Token {
    const float* numbers;
    float scale;
};
/// By position: what a reference needs of a sequence.
using Rows = std::vector<Token>;

/// A row's attention, near enough to exact.
std::vector<double> exact(const bf16* query, const Rows& keys, const Rows& values, int head_dim, float scale) {
    std::vector<double> weights;
    double sum = 0;
    for (const Token& key : keys) {
        double score = 0;
        for (int i = 0; i < head_dim; i++) score += double(to_float(query[i])) * key.numbers[i];
        weights.push_back(std::exp(score * key.scale * scale));
        sum += weights.back();
    }
    std::vector<double> out(size_t(head_dim), 0.0);
    for (size_t key = 0; key < keys.size(); key++)
        for (size_t i = 0; i < out.size(); i++) out[i] += weights[key] / sum * values[key].scale * values[key].numbers[i];
    return out;
}

/// 16 products added to a sum at once.
float add_products(float sum, const std::function<double(int)>& product) {
    double all = sum;
    for (int i = 0; i < 16; i++) all += product(i);
    return float(all);
}

/// The definition at the head of attention.cuh, word for word.
std::vector<bf16> as_defined(const bf16* query, const Rows& keys, const Rows& values, int head_dim, float scale) {
    const float factor = scale * 1.4426950408889634f, nothing = -INFINITY;
    std::vector<float> merged(size_t(head_dim), 0.0f);
    float merged_most = nothing, merged_sum = 0;
    const int count = int(keys.size());
    for (int first = 0; first < count; first += 128) {
        auto there = [&](int key) { return first + key < count; };
        float scores[128], weights[128], most = nothing;
        for (int key = 0; key < 128; key++) {
            scores[key] = there(key) ? 0 : nothing;
            for (int step = 0; there(key) && step < head_dim; step += 16)
                scores[key] = add_products(scores[key], [&](int i) { return double(to_float(query[step + i])) * keys[size_t(first + key)].numbers[step + i]; });
            if (there(key)) scores[key] *= keys[size_t(first + key)].scale;
            most = std::fmax(most, scores[key]);
        }
        for (int key = 0; key < 128; key++) weights[key] = exp2f(fmaf(scores[key], factor, -(most * factor)));
        float lanes[4] = {};
        for (int quarter = 0; quarter < 128; quarter += 32)
            for (int lane = 0; lane < 4; lane++) {
                float sum = 0;
                for (int tile = quarter; tile < quarter + 32; tile += 8) sum = (sum + weights[tile + lane * 2]) + weights[tile + lane * 2 + 1];
                lanes[lane] += sum;
            }
        const float sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]), own = most * factor, with = std::fmax(merged_most, own);
        const float before = exp2f(merged_most - with), added = exp2f(own - with);
        for (int column = 0; column < head_dim; column++) {
            float value = 0;
            for (int step = 0; step < 128; step += 16)
                value = add_products(value, [&](int i) {
                    if (!there(step + i)) return 0.0;
                    const Token& value = values[size_t(first + step + i)];
                    return double(to_float(to_bf16(weights[step + i] * value.scale))) * value.numbers[column];
                });
            merged[size_t(column)] = fmaf(merged[size_t(column)], before, value * added);
        }
        merged_sum = fmaf(merged_sum, before, sum * added), merged_most = with;
    }
    std::vector<bf16> out;
    for (float value : merged) out.push_back(to_bf16(value * (1 / merged_sum)));
    return out;
}

/// Sequences in a paged cache whose blocks lie in a random order; all else in it is NaN, and -1 in the tables. Every
/// 32nd split has larger scores than all before it. Tokens of e4m3 have scales that are far apart.
template <int HD, class KV = bf16>
struct Cache {
    static constexpr bool SCALED = sizeof(KV) == 1;
    static constexpr size_t BLOCK = size_t(16) * (SCALED ? HD + 4 : HD);
    Heads heads;
    std::vector<int> lengths;
    int stride;
    Buffer<KV> keys, values;
    Buffer<int> tables;
    /// What lies there, [sequence][position][kv_head][HD] with as many positions for all, and the scales.
    std::vector<float> numbers[2], scales[2];

    Cache(Heads heads, const std::vector<int>& lengths, uint64_t seed)
        : heads(heads), lengths(lengths), stride(ceil_div(*std::max_element(lengths.begin(), lengths.end()), 16) + 2), keys(size()), values(size()),
          tables((lengths.size() * size_t(stride) + 63) / 64 * 64) {
        Random random(seed);
        std::vector<int> blocks(lengths.size() * size_t(stride));
        std::iota(blocks.begin(), blocks.end(), 0);
        for (size_t i = blocks.size(); i > 1; i--) std::swap(blocks[i - 1], blocks[size_t(random.between(0, int(i) - 1))]);
        for (int which = 0; which < 2; which++) scales[which].resize(index(lengths.size(), 0, 0), 1.0f), numbers[which].resize(scales[which].size() * HD);
        for (size_t sequence = 0; sequence < lengths.size(); sequence++)
            for (int position = 0; position < lengths[sequence]; position++) {
                const float size = position / 128 % 32 ? 0.6f : 1 + float(position) / 4096;
                if (position % 16 == 0) tables[size_t(table(int(sequence)) + position / 16)] = blocks.back(), blocks.pop_back();
                for (int head = 0; head < heads.kv_heads; head++) {
                    put(keys, 0, sequence, position, head, random, size);
                    put(values, 1, sequence, position, head, random, 1);
                }
            }
    }

    /// Where a sequence's table begins. The last one ends where the memory does, so that nobody reads beyond it unnoticed.
    int table(int sequence) const { return int(tables.size()) - (int(lengths.size()) - sequence) * stride; }

    Rows rows(int which, int sequence, int count, int kv_head) const {
        Rows rows;
        for (int position = 0; position < count; position++) {
            const size_t at = index(size_t(sequence), position, kv_head);
            rows.push_back({numbers[which].data() + at * HD, scales[which][at]});
        }
        return rows;
    }

  private:
    size_t size() const { return lengths.size() * size_t(stride) * size_t(heads.kv_heads) * BLOCK; }
    size_t index(size_t sequence, int position, int head) const { return (sequence * size_t(stride) * 16 + size_t(position)) * size_t(heads.kv_heads) + size_t(head); }

    void put(Buffer<KV>& of, int which, size_t sequence, int position, int head, Random& random, float size) {
        const size_t block = size_t(tables[size_t(table(int(sequence)) + position / 16)]), at = index(sequence, position, head);
        KV* to = of.get() + (block * size_t(heads.kv_heads) + size_t(head)) * BLOCK;
        std::vector<float> drawn;
        for (int i = 0; i < HD; i++) drawn.push_back(random.around(size));
        if constexpr (SCALED) {
            if (position % 3 == 1)
                for (float& x : drawn) x /= 64;
            scales[which][at] = test::scale_of(drawn);
            memcpy(to + 16 * HD + position % 16 * 4, &scales[which][at], 4);
        }
        for (size_t i = 0; i < HD; i++)
            if constexpr (SCALED) {
                const unsigned code = test::nearest(drawn[i] / scales[which][at]);
                to[size_t(position % 16) * HD + test::interleaved(i)] = {static_cast<unsigned char>(code)};
                numbers[which][at * HD + i] = float(test::meaning(code));
            } else {
                to[size_t(position % 16) * HD + i] = to_bf16(drawn[i]);
                numbers[which][at * HD + i] = to_float(to_bf16(drawn[i]));
            }
    }
};

/// Rows of qkv of which only the queries are numbers.
template <int HD>
Buffer<bf16> random_queries(Heads heads, int rows, uint64_t seed) {
    Random random(seed);
    std::vector<bf16> qkv(size_t(rows * heads.row() * HD), bf16{0xffff});
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < heads.heads * HD; i++) qkv[size_t(row * heads.row() * HD + i)] = to_bf16(random.around(1));
    return Buffer<bf16>(qkv);
}

constexpr float SCALE = 0.37f;

#define OF_HEAD_DIM(kernel) (HD == 32 ? kernel##_32 : HD == 64 ? kernel##_64 : kernel##_128)

/// The kernel for numbers of KV, and what it takes beside.
template <int HD, class KV>
auto split_kernel() {
    if constexpr (sizeof(KV) == 1)
        return std::pair(OF_HEAD_DIM(attend_split8), size_t(288 * HD + 7424));
    else
        return std::pair(OF_HEAD_DIM(attend_split), size_t(544 * HD + 5376));
}
template <int HD, class KV>
auto chunk_kernel() {
    if constexpr (sizeof(KV) == 1)
        return std::pair(OF_HEAD_DIM(attend_chunk8), size_t(768 * HD + 1024));
    else
        return std::pair(OF_HEAD_DIM(attend_chunk), size_t(768 * HD));
}

/// `rows` and `tiles` below name sequences of the cache where the kernels want to know where the blocks begin.
template <int HD, class KV>
std::vector<bf16> split_and_combine(const Cache<HD, KV>& cache, const Buffer<bf16>& qkv, std::vector<AttendRow> rows, unsigned grid_y) {
    const int heads = cache.heads.heads, kv_heads = cache.heads.kv_heads, count = int(rows.size());
    int splits = 0;
    for (AttendRow& row : rows) row.table = cache.table(row.table), row.first = splits, splits += ceil_div(row.length, 128);
    Buffer<AttendRow> device_rows(rows);
    // No more than the rows' own splits: what is written beyond is noticed.
    Buffer<float> partials(size_t(heads) * size_t(splits) * (HD + 4));
    Buffer<bf16> out(qkv.size() / size_t(cache.heads.row()) * size_t(heads));
    auto [split, shared] = split_kernel<HD, KV>();
    auto combine = OF_HEAD_DIM(attend_combine);
    cpucuda::launch({unsigned(kv_heads), grid_y ? grid_y : unsigned(splits)}, 128, shared, [&, split = split] {
        split(qkv.get(), cache.keys.get(), cache.values.get(), cache.tables.get(), device_rows.get(), partials.get(), heads, kv_heads, count, SCALE);
    });
    cpucuda::launch({unsigned(heads), unsigned(count)}, unsigned(HD), 0, [&] { combine(partials.get(), device_rows.get(), out.get(), heads); });
    return out.copy();
}

template <int HD, class KV>
std::vector<bf16> chunk(const Cache<HD, KV>& cache, const Buffer<bf16>& qkv, std::vector<AttendTile> tiles) {
    auto [heads, kv_heads] = cache.heads;
    int most = 0;
    for (AttendTile& tile : tiles) tile.table = cache.table(tile.table), most = std::max(most, tile.count);
    Buffer<AttendTile> device_tiles(tiles);
    Buffer<bf16> out(qkv.size() / size_t(cache.heads.row()) * size_t(heads));
    auto [kernel, shared] = chunk_kernel<HD, KV>();
    cpucuda::launch({unsigned(kv_heads * ceil_div(most * cache.heads.group(), 128)), unsigned(tiles.size())}, 256, shared, [&, kernel = kernel] {
        kernel(qkv.get(), cache.keys.get(), cache.values.get(), cache.tables.get(), device_tiles.get(), out.get(), cache.heads.heads, cache.heads.kv_heads,
               SCALE);
    });
    return out.copy();
}

void same(const bf16* got, const std::vector<bf16>& want, const char* what, int row, int head) {
    for (size_t i = 0; i < want.size(); i++)
        test::expect(test::same_bits(got[i], want[i]), "%s: row %d, head %d, number %zu is %g, not %g", what, row, head, i, double(to_float(got[i])),
                     double(to_float(want[i])));
}

void close_to(const bf16* got, const std::vector<double>& want) {
    for (size_t i = 0; i < want.size(); i++) test::close(to_float(got[i]), want[i], 0x1p-9 + 1e-5, test::BF16_ROUNDING, "out", i);
}

/// What a row that sees `count` keys of a sequence must be.
template <int HD, class KV>
void check_row(const Cache<HD, KV>& cache, const Buffer<bf16>& qkv, const std::vector<bf16>& out, int row, int sequence, int count) {
    for (int head = 0; head < cache.heads.heads; head++) {
        const int kv_head = head / cache.heads.group();
        const bf16* query = qkv.get() + size_t(row * cache.heads.row() + head) * HD;
        const bf16* got = out.data() + size_t(row * cache.heads.heads + head) * HD;
        const Rows keys = cache.rows(0, sequence, count, kv_head), values = cache.rows(1, sequence, count, kv_head);
        close_to(got, exact(query, keys, values, HD, SCALE));
        same(got, as_defined(query, keys, values, HD, SCALE), "as defined", row, head);
    }
}

const std::vector<int> LENGTHS = {1, 15, 16, 17, 127, 128, 129, 300};

template <int HD, class KV>
void decode(Heads heads, const std::vector<int>& lengths) {
    Cache<HD, KV> cache(heads, lengths, 1);
    const int count = int(lengths.size());
    Buffer<bf16> qkv = random_queries<HD>(heads, count, 2);
    std::vector<AttendRow> rows;
    for (int i = 0; i < count; i++) rows.push_back({count - 1 - i, lengths[size_t(i)], i, 0});
    std::vector<bf16> out = split_and_combine(cache, qkv, rows, 0);
    for (const AttendRow& row : rows) check_row(cache, qkv, out, row.row, row.table, row.length);
}

/// The rows from `start` to the end of sequence 0 in tiles of `tile`, the first of which may be shorter.
std::vector<AttendTile> in_tiles(int start, int end, int first, int tile) {
    std::vector<AttendTile> tiles;
    for (int at = start; at < end; at += tiles.back().count) tiles.push_back({at - start, std::min(tiles.empty() ? first : tile, end - at), at, 0});
    return tiles;
}

template <int HD, class KV>
void prefill(Heads heads, int start, int end) {
    Cache<HD, KV> cache(heads, {end}, 3);
    Buffer<bf16> qkv = random_queries<HD>(heads, end - start, 4);
    std::vector<bf16> out = chunk(cache, qkv, in_tiles(start, end, 64, 64));
    for (int row = 0; row < end - start; row += 1 + row / 8 % 5) check_row(cache, qkv, out, row, 0, start + row + 1);
    std::vector<AttendRow> rows;
    for (int row = 0; row < end - start; row++) rows.push_back({row, start + row + 1, 0, 0});
    test::expect(test::same_bits(split_and_combine(cache, qkv, rows, 0).data(), out.data(), out.size()), "row by row is not the same");
}

template <class KV>
void decode_facts(const std::string& of) {
    test::fact(("rows_attend_as_defined_whatever_their_lengths_and_their_blocks" + of).c_str(), [] {
        decode<32, KV>({4, 2}, LENGTHS);
        decode<64, KV>({2, 1}, LENGTHS);
        decode<128, KV>({4, 1}, LENGTHS);
    });
    test::fact(("all_groups_of_query_heads_attend_to_their_key_head" + of).c_str(), [] {
        for (Heads heads : {Heads{1, 1}, {3, 3}, {4, 2}, {3, 1}, {8, 2}, {5, 1}, {7, 1}, {8, 1}, {9, 1}, {16, 1}, {32, 2}}) decode<32, KV>(heads, {130, 40});
        decode<128, KV>({16, 2}, {150});
    });
    test::fact(("more_splits_than_are_combined_at_a_time_are_merged_in_order" + of).c_str(), [] { decode<64, KV>({1, 1}, {33 * 128 + 5, 32 * 128, 64 * 128 + 1}); });
    test::fact(("a_row_is_the_same_whatever_the_grid" + of).c_str(), [] {
        Cache<64, KV> cache({4, 2}, {700, 90}, 5);
        Buffer<bf16> qkv = random_queries<64>(cache.heads, 2, 6);
        std::vector<AttendRow> rows = {{0, 700, 0, 0}, {1, 90, 1, 0}};
        std::vector<bf16> want = split_and_combine(cache, qkv, rows, 0);
        for (unsigned grid : {1u, 2u, 3u, 4u, 6u, 9u, 50u})
            test::expect(test::same_bits(split_and_combine(cache, qkv, rows, grid).data(), want.data(), want.size()), "grid %u", grid);
    });
    test::fact(("one_long_row_among_many_short_and_empty_ones_attends_as_defined" + of).c_str(), [] {
        std::vector<int> lengths(40, 3);
        lengths[0] = 200, lengths[17] = 1500, lengths[39] = 129;
        Cache<32, KV> cache({2, 1}, lengths, 14);
        Buffer<bf16> qkv = random_queries<32>(cache.heads, 44, 15);
        std::vector<AttendRow> rows = {{40, 0, 0, 0}};
        for (int i = 0; i < 40; i++) {
            rows.push_back({i, lengths[size_t(i)], i, 0});
            if (i % 13 == 4) rows.push_back({41 + i / 13, 0, 0, 0});
        }
        for (unsigned grid : {0u, 7u, 1u}) {
            std::vector<bf16> out = split_and_combine(cache, qkv, rows, grid);
            for (const AttendRow& row : rows)
                if (row.length) check_row(cache, qkv, out, row.row, row.table, row.length);
            for (size_t i = 40 * 64; i < 44 * 64; i++) test::expect(out[i].bits == 0, "number %zu", i);
        }
    });
    test::fact(("a_row_of_length_0_becomes_zeros_and_reads_nothing" + of).c_str(), [] {
        Cache<64, KV> cache({4, 2}, {20, 90}, 7);
        Buffer<bf16> qkv = random_queries<64>(cache.heads, 4, 8);
        std::vector<bf16> out = split_and_combine(cache, qkv, {{3, 0, -1, 0}, {1, 90, 1, 0}}, 0);
        check_row(cache, qkv, out, 1, 1, 90);
        for (size_t i = 0; i < 4 * 64; i++)
            test::expect(out[3 * 256 + i].bits == 0 && out[2 * 256 + i].bits == 0xffff, "number %zu", i);
    });
}

template <class KV>
void chunk_facts(const std::string& of) {
    test::fact(("a_chunk_attends_as_defined_and_as_its_rows_do_one_by_one" + of).c_str(), [] {
        prefill<64, KV>({16, 2}, 0, 290);
        prefill<64, KV>({2, 1}, 250, 300);
        prefill<128, KV>({4, 1}, 100, 140);
        prefill<32, KV>({3, 3}, 127, 130);
        prefill<128, KV>({1, 1}, 0, 1);
    });
    test::fact(("all_groups_fill_the_tiles_of_a_chunk" + of).c_str(), [] {
        for (Heads heads : {Heads{2, 1}, {3, 1}, {5, 1}, {7, 1}, {8, 1}, {8, 2}, {16, 1}}) prefill<32, KV>(heads, 90, 157);
    });
    test::fact(("a_row_is_the_same_whatever_the_chunks_and_tiles" + of).c_str(), [] {
        const int start = 100, end = 290;
        Cache<32, KV> cache({4, 1}, {end}, 9);
        Buffer<bf16> qkv = random_queries<32>(cache.heads, end - start, 10);
        std::vector<bf16> want = chunk(cache, qkv, in_tiles(start, end, 64, 64));
        for (auto [first, tile] : {std::pair{64, 32}, {1, 64}, {28, 64}, {29, 17}, {5, 63}})
            test::expect(test::same_bits(chunk(cache, qkv, in_tiles(start, end, first, tile)).data(), want.data(), want.size()), "tiles of %d", tile);
    });
    test::fact(("chunks_of_several_sequences_share_a_launch" + of).c_str(), [] {
        Cache<64, KV> cache({4, 2}, {40, 140, 64}, 11);
        Buffer<bf16> qkv = random_queries<64>(cache.heads, 60, 12);
        std::vector<AttendTile> tiles = {{20, 30, 110, 1}, {0, 5, 35, 0}, {55, 1, 63, 2}};
        std::vector<bf16> out = chunk(cache, qkv, tiles);
        for (const AttendTile& tile : tiles)
            for (int row = 0; row < tile.count; row++) check_row(cache, qkv, out, tile.row + row, tile.table, tile.start + row + 1);
        for (int row : {5, 19, 50, 54, 56})
            for (size_t i = 0; i < 4 * 64; i++) test::expect(out[size_t(row) * 256 + i].bits == 0xffff, "row %d was written", row);
    });
}

/// Images one after the other in qkv, each in tiles.
template <int HD>
void images(int heads, const std::vector<int>& spans, int tile) {
    const Heads both{heads, heads};
    const int rows = std::accumulate(spans.begin(), spans.end(), 0);
    Random random(13);
    Buffer<bf16> qkv(test::random_bf16(random, size_t(rows * both.row() * HD)));
    Buffer<bf16> out(size_t(rows * heads * HD));
    std::vector<AttendTile> tiles;
    int first = 0;
    for (int span : spans) {
        for (int row = 0; row < span; row += tile) tiles.push_back({first + row, std::min(tile, span - row), first, span});
        first += span;
    }
    Buffer<AttendTile> device_tiles(tiles);
    auto kernel = OF_HEAD_DIM(attend_image);
    cpucuda::launch({unsigned(heads), unsigned(tiles.size())}, 128, size_t(640 * HD), [&] { kernel(qkv.get(), device_tiles.get(), out.get(), heads, SCALE); });
    for (const AttendTile& of : tiles)
        for (int head = 0; head < heads; head++) {
            auto at = [&](int row, int part) { return qkv.get() + size_t((row * 3 + part) * heads + head) * HD; };
            Rows keys, values;
            std::vector<std::vector<float>> kept;
            for (int row = of.start; row < of.start + of.table; row++)
                for (int part : {1, 2}) {
                    kept.emplace_back();
                    for (int i = 0; i < HD; i++) kept.back().push_back(to_float(at(row, part)[i]));
                    (part == 1 ? keys : values).push_back({kept.back().data(), 1});
                }
            for (int row = of.row; row < of.row + of.count; row += 7) {
                const bf16* got = out.get() + size_t(row * heads + head) * HD;
                close_to(got, exact(at(row, 0), keys, values, HD, SCALE));
                same(got, as_defined(at(row, 0), keys, values, HD, SCALE), "as defined", row, head);
            }
        }
    test::expect(out.all_written(), "a number was not written");
}

void image_facts() {
    test::fact("images_of_all_sizes_attend_to_themselves_alone", [] {
        images<64>(2, {1, 40, 64, 65, 128, 129, 200, 3}, 64);
        images<32>(1, {130, 17}, 64);
        images<128>(1, {30, 150}, 64);
        images<64>(1, {150}, 33);
    });
    test::fact("nan_in_an_image_stays_there", [] {
        Random random(14);
        std::vector<bf16> qkv = test::random_bf16(random, 60 * 3 * 64);
        for (int row : {0, 19, 40, 59})
            for (size_t i = 0; i < 3 * 64; i++) qkv[size_t(row) * 3 * 64 + i] = {0xffff};
        Buffer<bf16> device(qkv), out(60 * 64);
        Buffer<AttendTile> tiles(std::vector<AttendTile>{{20, 20, 20, 20}});
        cpucuda::launch(1, 128, 640 * 64, [&] { attend_image_64(device.get(), tiles.get(), out.get(), 1, SCALE); });
        for (size_t i = 0; i < 60 * 64; i++) {
            bool inside = i / 64 >= 20 && i / 64 < 40;
            test::expect(inside ? std::isfinite(to_float(out[i])) : out.untouched(i), "number %zu is %g", i, double(to_float(out[i])));
        }
    });
}

}  // namespace

int main() {
    decode_facts<bf16>("");
    decode_facts<e4m3>("_of_e4m3");
    chunk_facts<bf16>("");
    chunk_facts<e4m3>("_of_e4m3");
    image_facts();
    return test::summary();
}
