// Facts about made-up weights: they are those of shard-worker/device/src/made_up.rs.
#include "harness.h"

namespace {
#include "../kernels/rows.cuh"

#include "../kernels/dummy.cuh"

/// FNV-1a.
uint64_t name_hash(const std::string& name) {
    uint64_t hash = 0xcbf29ce484222325;
    for (char c : name) hash = (hash ^ uint8_t(c)) * 0x100000001b3;
    return hash;
}

/// `made_up.rs`: the 256 values of a tensor of a stride, and the row and column of each number.
bf16 reference(uint64_t key, size_t row, size_t column, float centre, float spread) {
    uint64_t hash = mix(mix(key ^ row) + column / 8);
    float level = float(hash >> column % 8 * 8 & 0xff);
    return to_bf16(centre + spread * (level + 0.5f - 128.0f) / 128.0f);
}

void check(const char* name, bool is_norm, int stride, long long row, int rows, int column, int cols) {
    float centre = is_norm ? 1.0f : 0.0f, spread = is_norm ? 0.1f : std::sqrt(3.0f / float(stride));
    uint64_t key = mix(7 ^ name_hash(name));
    test::Buffer<bf16> out(size_t(rows * cols));
    cpucuda::launch(dim3(unsigned(rows), 2), 256, 0, [&] { fill_dummy(out.get(), key, row, column, cols, centre, spread); });
    for (size_t i = 0; i < out.size(); i++) {
        bf16 want = reference(key, size_t(row) + i / size_t(cols), size_t(column) + i % size_t(cols), centre, spread);
        test::expect(out[i].bits == want.bits, "%s: number %zu is %x, not %x", name, i, out[i].bits, want.bits);
    }
}

}  // namespace

int main() {
    test::fact("fill_dummy_makes_what_the_cpu_makes_of_any_slice", [] {
        check("layers.0.attention.wq.weight", false, 512, 0, 3, 0, 512);
        check("layers.0.attention.wo.weight", false, 22, 3, 4, 5, 6);
        check("layers.1.feed_forward.w2.weight", false, 4096, 1000000, 2, 1024, 1024);
        check("output.weight", false, 100, 17, 2, 8, 21);
        check("tok_embeddings.weight", false, 5000, 9, 2, 3, 4997);
        check("norm.weight", true, 5120, 0, 1, 0, 5120);
    });
    test::fact("the_hash_is_splitmix64", [] {
        // Published answers of SplitMix64 from seed 1234567: its n-th number is mix(seed + (n - 1) * golden ratio).
        const uint64_t known[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u, 16408922859458223821u};
        for (uint64_t n = 0; n < 5; n++) test::expect(mix(1234567 + n * 0x9e3779b97f4a7c15) == known[n], "number %llu", (unsigned long long)n);
    });
    return test::summary();
}
