// Facts about the sum over ranks through memory that all of them reach: a rank is a thread here.
#include <atomic>
#include <memory>
#include <thread>

#include "harness.h"

namespace {
#include "../kernels/rows.cuh"

#include "../kernels/peer.cuh"

constexpr size_t WINDOW = PEER_NUMBERS + 2 * PEER_BLOCKS * PEER_BYTES;
constexpr u64 SECOND = 1000000000, LONG = 10 * SECOND, MARK = u64(77) << PEER_CALL_BITS;

/// The windows of some ranks and the word of each rank's host.
struct Group {
    int ranks;
    u64 limit;
    std::vector<std::unique_ptr<test::Buffer<unsigned char>>> memory;
    std::vector<u64> stop;

    explicit Group(int ranks, u64 limit = LONG, u64 first_call = MARK) : ranks(ranks), limit(limit), stop(size_t(ranks)) {
        for (int r = 0; r < ranks; r++) memory.push_back(std::make_unique<test::Buffer<unsigned char>>(WINDOW));
        for (int r = 0; r < ranks; r++) {
            PeerWindow* own = window(r);
            memset(static_cast<void*>(own), 0, sizeof *own);
            for (int other = 0; other < ranks; other++) own->of_rank[other] = u64(window(other));
            for (u64& call : own->calls) call = first_call;
        }
    }
    PeerWindow* window(int rank) { return reinterpret_cast<PeerWindow*>(memory[size_t(rank)]->get()); }

    void sum(int rank, bf16* values, int n, unsigned blocks) {
        cpucuda::launch(blocks, 256, 0, [&] { sum_over_ranks_w(values, n, window(rank), rank, ranks, &stop[size_t(rank)], limit); });
    }
    void sum(int rank, float* values, int n, unsigned blocks) {
        cpucuda::launch(blocks, 256, 0, [&] { sum_over_ranks_f(values, n, window(rank), rank, ranks, &stop[size_t(rank)], limit); });
    }
};

/// Runs `body(rank)` on the first ranks at once; fails as the first of them does, and then no other waits for it.
void on_ranks(Group& group, int ranks, const std::function<void(int)>& body) {
    std::vector<std::string> complaints(static_cast<size_t>(ranks));
    std::vector<std::thread> threads;
    for (int r = 0; r < ranks; r++)
        threads.emplace_back([&, r] {
            try {
                body(r);
            } catch (const std::exception& error) {
                complaints[size_t(r)] = error.what();
                for (u64& stop : group.stop) __atomic_store_n(&stop, u64(1), __ATOMIC_RELEASE);
            }
        });
    for (std::thread& thread : threads) thread.join();
    for (const std::string& complaint : complaints) test::expect(complaint.empty(), "%s", complaint.c_str());
}

/// The tree in f64, rounded to f32 at every join.
float tree(const float* parts, int count) {
    if (count == 1) return parts[0];
    return float(double(tree(parts, count / 2)) + double(tree(parts + count / 2, count - count / 2)));
}

/// The nearest f32 or bf16, by the rounding of f64.
float nearest(float x, float) { return x; }
float nearest(float x, bf16) {
    int exponent = 0;
    std::frexp(x, &exponent);
    double unit = std::ldexp(1, exponent - 8);
    return float(std::nearbyint(double(x) / unit) * unit);
}

float number(float x, float) { return x; }
bf16 number(float x, bf16) { return to_bf16(x); }

/// Number `i` of a rank in a call: of sizes so different that the order of adding shows.
template <class T>
T value(int rank, int call, int i) {
    test::Random random(u64(rank) * 1000003 + u64(call) * 7919 + u64(i));
    return number(random.around(1) * float(1 << random.between(0, 20)), T());
}

template <class T>
void check(const test::Buffer<T>& got, int ranks, int call) {
    for (int i = 0; i < int(got.size()); i++) {
        float parts[PEERS];
        for (int r = 0; r < ranks; r++) parts[r] = to_float(value<T>(r, call, i));
        float wanted = nearest(tree(parts, ranks), T());
        test::expect(test::same_bits(to_float(got[size_t(i)]), wanted), "number %d of call %d is %.9g, not %.9g", i, call,
                     to_float(got[size_t(i)]), wanted);
    }
}

/// One call by one rank, checked.
template <class T>
void one_call(Group& group, int rank, int call, int n, unsigned blocks) {
    test::Buffer<T> values{size_t(n)};
    for (int i = 0; i < n; i++) values[size_t(i)] = value<T>(rank, call, i);
    group.sum(rank, values.get(), n, blocks);
    check(values, group.ranks, call);
}

void sums() {
    test::fact("every_rank_has_the_sum_of_the_tree_rounded_once_whatever_the_length_and_the_grid", [] {
        for (int ranks : {2, 3, 4, 8}) {
            Group group(ranks);
            on_ranks(group, ranks, [&](int rank) {
                int call = 0;
                for (auto [n, blocks] : {std::pair(1, 1u), {7, 1}, {8, 2}, {63, 3}, {5120, 3}, {5121, 5}, {4099, 32}}) {
                    one_call<bf16>(group, rank, call++, n, blocks);
                    one_call<float>(group, rank, call++, n, blocks);
                }
            });
        }
    });
    test::fact("a_block_has_room_for_all_that_it_may_be_given", [] {
        Group group(2);
        on_ranks(group, 2, [&](int rank) { one_call<bf16>(group, rank, 0, 2 * PEER_BYTES / 2, 2); });
    });
    test::fact("calls_follow_each_other_with_nobody_between_them_and_grids_that_change", [] {
        for (int ranks : {2, 4}) {
            // Their count passes what 32 bits hold.
            Group group(ranks, LONG, MARK + 0xffffffc0);
            on_ranks(group, ranks, [&](int rank) {
                for (int call = 0; call < 150; call++) one_call<bf16>(group, rank, call, 100 + call % 7 * 200, unsigned(1 + call % 3));
            });
            test::expect(group.window(0)->calls[0] == MARK + 0xffffffc0 + 150, "calls were counted otherwise");
        }
    });
    test::fact("what_ranks_of_another_group_told_is_not_believed", [] {
        Group group(2);
        for (int r = 0; r < 2; r++)
            for (auto& block : group.window(r)->told)
                for (u64& told : block) told = (MARK + (u64(1) << PEER_CALL_BITS)) | PEER_LEFT;
        on_ranks(group, 2, [&](int rank) {
            for (int call = 0; call < 5; call++) one_call<bf16>(group, rank, call, 300, 2);
        });
    });
}

/// A call that ends in vain; what the host reads then.
u64 vain(Group& group, int rank) {
    test::Buffer<bf16> values(std::vector<bf16>(100, to_bf16(1)));
    group.sum(rank, values.get(), 100, 1);
    return __atomic_load_n(&group.stop[size_t(rank)], __ATOMIC_ACQUIRE);
}

void ends() {
    test::fact("a_rank_that_never_comes_is_waited_for_until_the_limit_and_no_later_kernel_waits", [] {
        Group group(2, SECOND / 20);
        test::expect(vain(group, 0) == PEER_IS_LATE, "the host is told something else");
        PeerWindow *own = group.window(0), *other = group.window(1);
        test::expect(own->is_over && own->calls[0] == MARK, "the call counts");
        // What a later kernel told would show.
        other->told[0][0] = 0;
        group.stop[0] = 0, group.limit = LONG;
        test::expect(vain(group, 0) == 0 && other->told[0][0] == 0, "a later kernel did something");
    });
    test::fact("the_hosts_word_ends_a_wait", [] {
        Group group(2);
        std::thread host([&] {
            usleep(20000);
            __atomic_store_n(&group.stop[0], u64(1), __ATOMIC_RELEASE);
        });
        u64 told = vain(group, 0);
        host.join();
        test::expect(told == 1, "the host reads %llu", told);
    });
    test::fact("who_stops_waiting_tells_the_others", [] {
        Group group(3);
        group.stop[0] = 1;
        u64 told[2];
        on_ranks(group, 2, [&](int rank) { told[rank] = vain(group, rank); });
        test::expect(told[0] == 1 && told[1] == PEER_IS_GONE, "the hosts read %llu and %llu", told[0], told[1]);
    });
}

}  // namespace

int main() {
    // Waits that have lost their end, too, are to fail.
    alarm(100);
    sums();
    ends();
    return test::summary();
}
