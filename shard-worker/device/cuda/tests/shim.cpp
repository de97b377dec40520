// Facts about the shim itself: what it computes, and the mistakes of kernels that it tells.
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

namespace {

/// What a child process that runs `body` says when it aborts; empty when it does not.
std::string last_words(const std::function<void()>& body) {
    int pipe_ends[2];
    test::expect(pipe(pipe_ends) == 0, "no pipe");
    pid_t child = fork();
    if (child == 0) {
        dup2(pipe_ends[1], 2);
        body();
        _exit(0);
    }
    close(pipe_ends[1]);
    std::string words;
    char text[256];
    for (ssize_t n; (n = read(pipe_ends[0], text, sizeof text)) > 0;) words.append(text, size_t(n));
    close(pipe_ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? words + " signal " + std::to_string(WTERMSIG(status)) : "";
}

void dies(const char* of, const std::function<void()>& body) {
    std::string words = last_words(body);
    test::expect(words.find(of) != std::string::npos, "wanted '%s', got '%s'", of, words.c_str());
}

__global__ void multiply(const bf16* a, const bf16* b, float* d) {
    const u32 *a2 = reinterpret_cast<const u32*>(a), *b2 = reinterpret_cast<const u32*>(b);
    int g = lane_id() / 4, t = lane_id() % 4;
    u32 ra[4] = {a2[g * 8 + t], a2[(g + 8) * 8 + t], a2[g * 8 + t + 4], a2[(g + 8) * 8 + t + 4]};
    u32 rb[2] = {b2[g * 8 + t], b2[g * 8 + t + 4]};
    float rd[4] = {1, 1, 1, 1};
    mma_m16n8k16(rd, ra, rb);
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = rd[i];
}

/// The same with fragments from shared memory: b, [k, n] in rows of n, is transposed on the way.
__global__ void multiply_from_shared(const bf16* a, const bf16* b_rows, float* d) {
    __shared__ __align__(16) bf16 sa[16 * 16];
    __shared__ __align__(16) bf16 sb[16 * 8];
    copy_async_16(sa + lane_id() * 8, a + lane_id() * 8);
    if (lane_id() < 16) copy_async_16(sb + lane_id() * 8, b_rows + lane_id() * 8);
    copy_async_commit();
    copy_async_wait<0>();
    __syncwarp();
    u32 ra[4], rb[4];
    ldmatrix_x4(ra, sa + lane_id() % 16 * 16 + lane_id() / 16 * 8);
    ldmatrix_x4_trans(rb, sb + lane_id() % 16 * 8);
    float rd[4] = {1, 1, 1, 1};
    u32 two[2] = {rb[0], rb[1]};
    mma_m16n8k16(rd, ra, two);
    for (int i = 0; i < 4; i++) d[(lane_id() / 4 + i / 2 * 8) * 8 + lane_id() % 4 * 2 + i % 2] = rd[i];
}

__global__ void neighbours(int* out, bool barrier) {
    __shared__ int seen[64];
    seen[threadIdx.x] = int(threadIdx.x);
    if (barrier) __syncthreads();
    out[threadIdx.x] = seen[63 - threadIdx.x];
}

template <class T>
__device__ T twice(T x) {
    __shared__ T shared[32];
    shared[threadIdx.x] = x;
    __syncthreads();
    return shared[threadIdx.x] + shared[31 - threadIdx.x];
}

__global__ void templates_share(float* f, double* d) {
    f[threadIdx.x] = twice(1.0f);
    d[threadIdx.x] = twice(2.0);
}

__global__ void counts(unsigned* counters, unsigned long long* wide) {
    atomicAdd(&counters[threadIdx.x % 3], 1u);
    atomicMax(&counters[3], threadIdx.x);
    atomicAdd(wide, 1ull << 33);
}

void random_product(void (*kernel)(const bf16*, const bf16*, float*), bool rows) {
    test::Random random(1);
    std::vector<bf16> a = test::random_bf16(random, 256), b = test::random_bf16(random, 128);
    std::vector<bf16> given = b;  // [n, k], or [k, n] if `rows`
    if (rows)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) given[size_t(k * 8 + n)] = b[size_t(n * 16 + k)];
    test::Buffer<bf16> x(a), y(given);
    test::Buffer<float> d(128);
    cpucuda::launch(1, 32, 0, [&] { kernel(x.get(), y.get(), d.get()); });
    for (size_t m = 0; m < 16; m++)
        for (size_t n = 0; n < 8; n++) {
            double sum = 1;
            for (size_t k = 0; k < 16; k++) sum += double(to_float(a[m * 16 + k])) * to_float(b[n * 16 + k]);
            test::close(d[m * 8 + n], sum, 0, 1e-7, "d", m * 8 + n);
        }
}

void arithmetic() {
    test::fact("mma_multiplies_as_the_fragments_say", [] { random_product(multiply, false); });
    test::fact("ldmatrix_and_cp_async_feed_mma", [] { random_product(multiply_from_shared, true); });
    test::fact("bf16_rounds_to_nearest_even_and_keeps_nan", [] {
        struct Case {
            u32 bits;
            u16 rounded;
        };
        for (Case c : {Case{0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81}, {0x7f7fffff, 0x7f80}, {0xff800001, 0x7fff}, {0x80000000, 0x8000}})
            test::expect(to_bf16(__uint_as_float(c.bits)).bits == c.rounded, "%x rounds to %x", c.bits, to_bf16(__uint_as_float(c.bits)).bits);
        test::expect(pack(1.0f, 2.0f) == 0x40003f80 && low_half(0x40003f80) == 1 && high_half(0x40003f80) == 2, "pairs");
    });
    test::fact("shuffles_votes_and_reductions_see_every_lane", [] {
        cpucuda::launch(2, 96, 0, [] {
            unsigned lane = unsigned(lane_id());
            bool good = __shfl_xor_sync(ALL_LANES, double(lane), 5) == double(lane ^ 5) && __shfl_sync(ALL_LANES, lane, 7) == 7;
            good &= __shfl_down_sync(ALL_LANES, lane, 4) == (lane < 28 ? lane + 4 : lane);
            good &= __shfl_up_sync(ALL_LANES, lane, 4) == (lane < 4 ? lane : lane - 4);
            good &= __ballot_sync(ALL_LANES, lane % 3 == 0) == 0x49249249 && __any_sync(ALL_LANES, lane == 3) && !__all_sync(ALL_LANES, lane == 3);
            good &= __reduce_add_sync(ALL_LANES, lane) == 496 && __reduce_max_sync(ALL_LANES, lane) == 31 && warp_sum(float(lane)) == 496;
            good &= __match_any_sync(ALL_LANES, lane / 8) == 0xffu << lane / 8 * 8 && warp_max(-float(lane)) == 0;
            unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
            good &= __reduce_min_sync(half, lane) == lane / 16 * 16;
            if (!good) cpucuda::fail("a lane saw something else");
        });
    });
    test::fact("integer_atomics_count_every_thread", [] {
        test::Buffer<unsigned> counters(std::vector<unsigned>(4, 0));
        test::Buffer<unsigned long long> wide(std::vector<unsigned long long>(1, 0));
        cpucuda::launch(10, 99, 0, [&] { counts(counters.get(), wide.get()); });
        test::expect(counters[0] == 330 && counters[1] == 330 && counters[2] == 330 && counters[3] == 98 && wide[0] == 990ull << 33, "counts");
    });
    test::fact("templates_have_shared_memory_of_their_own", [] {
        test::Buffer<float> f(32);
        test::Buffer<double> d(32);
        cpucuda::launch(1, 32, 0, [&] { templates_share(f.get(), d.get()); });
        for (size_t i = 0; i < 32; i++) test::expect(f[i] == 2 && d[i] == 4, "thread %zu", i);
    });
}

void mistakes() {
    test::fact("a_forgotten_barrier_shows_in_the_result", [] {
        for (bool barrier : {true, false}) {
            test::Buffer<int> out(64);
            cpucuda::launch(1, 64, 0, [&] { neighbours(out.get(), barrier); });
            bool right = true;
            for (size_t i = 0; i < 64; i++) right &= out[i] == int(63 - i);
            test::expect(right == barrier, barrier ? "wrong with the barrier" : "right without the barrier");
        }
    });
    test::fact("shared_memory_is_nan_until_written", [] {
        cpucuda::launch(3, 1, 12, [] {
            __shared__ float fixed[2];
            DYNAMIC_SHARED(float, dynamic);
            for (float* p : {fixed, dynamic}) {
                if (!std::isnan(p[1])) cpucuda::fail("a number before it was written");
                p[1] = 1;
            }
        });
    });
    test::fact("divergent_barriers_are_told", [] {
        dies("different barriers", [] {
            cpucuda::launch(1, 64, 0, [] {
                if (threadIdx.x < 32)
                    __syncthreads();
                else
                    __syncthreads();
            });
        });
    });
    test::fact("a_wait_without_end_is_told", [] {
        dies("for ever", [] {
            cpucuda::launch(1, 64, 0, [] {
                if (threadIdx.x != 3) __syncwarp();
                if (threadIdx.x == 3) __syncthreads();
            });
        });
    });
    test::fact("lanes_in_different_warp_functions_are_told", [] {
        dies("different functions", [] {
            cpucuda::launch(1, 32, 0, [] { threadIdx.x % 2 ? __syncwarp() : void(__ballot_sync(ALL_LANES, 1)); });
        });
    });
    test::fact("shared_memory_beyond_its_end_is_told", [] {
        auto write = [](size_t at) {
            cpucuda::launch(1, 1, 100, [=] {
                DYNAMIC_SHARED(char, p);
                p[at] = 1;
            });
        };
        dies("beyond its end", [=] { write(101); });
        dies("signal 11", [=] { write(128); });
    });
    test::fact("global_memory_beyond_its_end_is_told", [] {
        dies("outside its bounds", [] { test::Buffer<float>(3)[3] = 1; });
        dies("outside its bounds", [] { test::Buffer<float>(3)[size_t(-1)] = 1; });
        dies("signal 11", [] { test::Buffer<float>(3)[64] = 1; });
    });
    test::fact("a_copy_is_not_there_before_it_was_waited_for", [] {
        test::Buffer<float> from(std::vector<float>(8, 1.0f));
        cpucuda::launch(1, 1, 0, [&] {
            __shared__ __align__(16) float to[12];
            copy_async_16(to, from.get());
            copy_async_commit();
            copy_async_16(to + 4, from.get() + 4, 8);
            copy_async_commit();
            copy_async_wait<1>();
            if (to[0] != 1 || !std::isnan(to[4])) cpucuda::fail("not the first group alone");
            copy_async_wait<0>();
            if (to[5] != 1 || to[6] != 0) cpucuda::fail("not 8 bytes and 8 zeros");
        });
        dies("did not wait for", [&] {
            cpucuda::launch(1, 1, 64, [&] {
                DYNAMIC_SHARED(float, to);
                copy_async_16(to, from.get());
                copy_async_commit();
            });
        });
    });
    test::fact("launches_that_a_device_refuses_are_told", [] {
        for (auto [grid, block, bytes] : {std::tuple<dim3, dim3, size_t>{0, 32, 0}, {1, 1025, 0}, {dim3(1, 65536), 1, 0}, {1, 1, 1 << 18}})
            dies("cpu_cuda", [=, g = grid, b = block, s = bytes] { cpucuda::launch(g, b, s, [] {}); });
    });
}

}  // namespace

int main() {
    arithmetic();
    mistakes();
    return test::summary();
}
