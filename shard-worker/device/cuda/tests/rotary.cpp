// Facts about rotary positions and the cache.
#include <set>

#include "e4m3.h"

namespace {
#include "../kernels/rows.cuh"

#include "../kernels/cache.cuh"
#include "../kernels/rotary.cuh"

constexpr int POSITIONS = 40;

struct Shape {
    int heads, kv_heads, head_dim;
    int fused() const { return (heads + 2 * kv_heads) * head_dim; }
};
// Heads of 6 go by pairs; 48 and 36 heads of 8 need more than one run a thread.
const Shape SHAPES[] = {{1, 1, 6}, {3, 1, 10}, {2, 2, 8}, {4, 2, 32}, {8, 2, 64}, {4, 1, 128}, {36, 6, 64}};

std::vector<float> angles(int head_dim) {
    std::vector<float> table;
    for (int p = 0; p < POSITIONS; p++)
        for (int i = 0; i < head_dim / 2; i++) {
            double angle = p * std::pow(1e4, -2.0 * i / head_dim);
            table.push_back(float(std::cos(angle))), table.push_back(float(std::sin(angle)));
        }
    return table;
}

/// Number `i` of a row of heads, turned in f64.
double turned(const bf16* row, size_t i, const float* table, int position, int head_dim) {
    const float* cos_sin = table + position * head_dim + int(i) % head_dim / 2 * 2;
    double a = to_float(row[i / 2 * 2]), b = to_float(row[i / 2 * 2 + 1]);
    return i % 2 ? a * cos_sin[1] + b * cos_sin[0] : a * cos_sin[0] - b * cos_sin[1];
}

void check_turned(bf16 got, double want, size_t i) { test::close(to_float(got), want, 1e-6, test::BF16_ROUNDING + 1e-6, "turned", i); }

void in_place() {
    test::fact("rotate_turns_queries_and_keys_leaves_values_and_a_row_alone_is_the_row_in_a_batch", [] {
        test::Random random(1);
        for (Shape s : SHAPES) {
            size_t rows = size_t(random.between(1, 4)), fused = size_t(s.fused());
            std::vector<bf16> given = test::random_bf16(random, rows * fused);
            std::vector<int> positions;
            for (size_t r = 0; r < rows; r++) positions.push_back(random.between(0, POSITIONS - 1));
            test::Buffer<bf16> qkv(given);
            test::Buffer<float> table(angles(s.head_dim));
            test::Buffer<int> at(positions);
            dim3 grid(unsigned(rows), unsigned(random.between(1, 2)));
            cpucuda::launch(grid, 256, 0, [&] { rotate(qkv.get(), table.get(), at.get(), s.heads, s.kv_heads, s.head_dim); });
            for (size_t i = 0; i < given.size(); i++) {
                const bf16* row = given.data() + i / fused * fused;
                if (int(i % fused) < (s.heads + s.kv_heads) * s.head_dim)
                    check_turned(qkv[i], turned(row, i % fused, table.get(), positions[i / fused], s.head_dim), i);
                else
                    test::expect(qkv[i].bits == given[i].bits, "value %zu was changed", i);
            }
            test::Buffer<bf16> last(test::row_of(given.data(), rows - 1, fused));
            cpucuda::launch(1, 256, 0, [&] { rotate(last.get(), table.get(), at.get() + rows - 1, s.heads, s.kv_heads, s.head_dim); });
            test::expect(test::same_bits(last.get(), qkv.get() + (rows - 1) * fused, fused), "a row alone differs");
        }
    });
}

constexpr int BLOCKS = 4;

/// Positions of rows, and where in the cache they go: the ends of blocks, a row that stores nothing, then any other slots.
std::pair<std::vector<int>, std::vector<int>> places(test::Random& random, size_t rows) {
    std::vector<int> positions, slots;
    std::set<int> ends = {15, 16, BLOCKS * BLOCK_TOKENS - 1, 0};
    for (size_t r = 0; r < rows; r++) {
        positions.push_back(random.between(0, POSITIONS - 1));
        slots.push_back(r == 3 ? -1 : *ends.begin());
        if (r != 3) ends.erase(ends.begin());
        if (ends.empty()) ends.insert(random.between(20, 60));
    }
    return {positions, slots};
}

/// One random batch stored, and every number of the row and of the cache looked at.
void check_store(test::Random& random, Shape s) {
    size_t rows = size_t(random.between(1, 5)), fused = size_t(s.fused()), hd = size_t(s.head_dim);
    std::vector<bf16> given = test::random_bf16(random, rows * fused);
    auto [positions, slots] = places(random, rows);
    size_t cache_size = size_t(BLOCKS * s.kv_heads * BLOCK_TOKENS) * hd;
    test::Buffer<bf16> qkv(given), by_rotate(given), keys(cache_size), values(cache_size);
    test::Buffer<float> table(angles(s.head_dim));
    test::Buffer<int> at(positions), to(slots);
    dim3 grid(unsigned(rows), unsigned(random.between(1, 2)));
    cpucuda::launch(grid, 256, 0, [&] { rotate_store(qkv.get(), table.get(), at.get(), to.get(), keys.get(), values.get(), s.heads, s.kv_heads, s.head_dim); });
    cpucuda::launch(grid, 256, 0, [&] { rotate(by_rotate.get(), table.get(), at.get(), s.heads, s.kv_heads, s.head_dim); });

    std::vector<bool> key_seen(cache_size), value_seen(cache_size);
    size_t key_columns = size_t(s.heads) * hd, value_columns = size_t(s.heads + s.kv_heads) * hd;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < fused; i++) {
            size_t number = r * fused + i;
            if (i < key_columns) {
                check_turned(qkv[number], turned(given.data() + r * fused, i, table.get(), positions[r], s.head_dim), number);
                test::expect(qkv[number].bits == by_rotate[number].bits, "query %zu is not what rotate makes", number);
                continue;
            }
            test::expect(qkv[number].bits == given[number].bits, "key or value %zu was changed in place", number);
            if (slots[r] < 0) continue;
            size_t column = i - (i < value_columns ? key_columns : value_columns);
            size_t place = ((size_t(slots[r]) / 16 * size_t(s.kv_heads) + column / hd) * 16 + size_t(slots[r]) % 16) * hd + column % hd;
            if (i < value_columns) {
                test::expect(keys[place].bits == by_rotate[number].bits, "key %zu is not what rotate makes", place);
                key_seen[place] = true;
            } else {
                test::expect(values[place].bits == given[number].bits, "value %zu", place);
                value_seen[place] = true;
            }
        }
    for (size_t i = 0; i < cache_size; i++)
        test::expect((key_seen[i] || keys.untouched(i)) && (value_seen[i] || values.untouched(i)), "number %zu of the cache was written", i);
}

/// The same with e4m3: what rotate makes is quantised head by head, and all else in the cache stays as it was.
void check_store8(test::Random& random, Shape s) {
    const size_t rows = size_t(random.between(1, 5)), fused = size_t(s.fused()), hd = size_t(s.head_dim), block = 16 * (hd + 4);
    std::vector<bf16> given = test::random_bf16(random, rows * fused, random.chance(0.5) ? 1e-3f : 30);
    // Of row 0 the last value's head is nothing but zeros; a number of row 1 is infinite.
    for (size_t i = fused - hd; i < fused; i++) given[i] = {u16(i % 2 << 15)};
    if (rows > 1) given[2 * fused - 1] = {0xff80};
    auto [positions, slots] = places(random, rows);
    const size_t cache_size = size_t(BLOCKS * s.kv_heads) * block;
    test::Buffer<bf16> qkv(given), turned(given);
    test::Buffer<e4m3> keys(cache_size), values(cache_size);
    test::Buffer<float> table(angles(s.head_dim));
    test::Buffer<int> at(positions), to(slots);
    dim3 grid(unsigned(rows), unsigned(random.between(1, 2)));
    cpucuda::launch(grid, 256, 0, [&] { rotate_store8(qkv.get(), table.get(), at.get(), to.get(), keys.get(), values.get(), s.heads, s.kv_heads, s.head_dim); });
    cpucuda::launch(grid, 256, 0, [&] { rotate(turned.get(), table.get(), at.get(), s.heads, s.kv_heads, s.head_dim); });

    std::vector<unsigned char> wanted[2] = {std::vector<unsigned char>(cache_size, 0xff), std::vector<unsigned char>(cache_size, 0xff)};
    for (size_t r = 0; r < rows; r++) {
        const size_t queries = size_t(s.heads) * hd;
        test::expect(test::same_bits(qkv.get() + r * fused, turned.get() + r * fused, queries), "queries of row %zu", r);
        test::expect(test::same_bits(qkv.get() + r * fused + queries, given.data() + r * fused + queries, fused - queries), "row %zu was changed", r);
        for (size_t head = 0; slots[r] >= 0 && head < size_t(2 * s.kv_heads); head++) {
            std::vector<float> numbers;
            for (size_t i = 0; i < hd; i++) numbers.push_back(to_float(turned[r * fused + queries + head * hd + i]));
            const bool infinite = r == 1 && head + 1 == size_t(2 * s.kv_heads);
            const float scale = test::scale_of(numbers);
            const size_t kv_heads = size_t(s.kv_heads), token = size_t(slots[r]) % 16, first = (size_t(slots[r]) / 16 * kv_heads + head % kv_heads) * block;
            std::vector<unsigned char>& want = wanted[head / kv_heads];
            memcpy(want.data() + first + 16 * hd + token * 4, &scale, 4);
            for (size_t i = 0; i < hd; i++) want[first + token * hd + test::interleaved(i)] = static_cast<unsigned char>(test::nearest(numbers[i] / scale));
            if (!infinite) continue;
            // What such a token's numbers become does not matter, since its scale is no number.
            float got;
            memcpy(&got, values.get() + first + 16 * hd + token * 4, 4);
            test::expect(std::isnan(got), "the scale of an infinite number is %g", double(got));
            memcpy(want.data() + first + 16 * hd + token * 4, &got, 4);
            memcpy(want.data() + first + token * hd, values.get() + first + token * hd, hd);
        }
    }
    for (size_t i = 0; i < cache_size; i++)
        test::expect(keys[i].bits == wanted[0][i] && values[i].bits == wanted[1][i], "byte %zu of the cache: key %x, not %x; value %x, not %x", i, keys[i].bits,
                     wanted[0][i], values[i].bits, wanted[1][i]);
}

}  // namespace

int main() {
    in_place();
    test::fact("rotate_store_turns_queries_in_place_and_writes_keys_and_values_to_their_slots_alone", [] {
        test::Random random(2);
        for (int trial = 0; trial < 4; trial++)
            for (Shape s : SHAPES) check_store(random, s);
    });
    test::fact("rotate_store8_quantises_each_token_of_a_head_by_itself_and_writes_it_to_its_slot_alone", [] {
        test::Random random(3);
        for (int trial = 0; trial < 6; trial++)
            for (Shape s : {Shape{1, 1, 32}, {4, 2, 32}, {3, 1, 32}, {8, 2, 64}, {5, 1, 64}, {4, 1, 128}, {32, 8, 128}}) check_store8(random, s);
    });
    return test::summary();
}
