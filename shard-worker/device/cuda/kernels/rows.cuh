// Runs of neighbouring numbers in registers, and walking along a row in such runs.
//
// Kernels here wait for memory, so numbers travel 16 bytes at a time wherever rows begin at multiples of 16 bytes: where
// a row has a multiple of 8 columns. Other rows go number by number.

template <int N>
struct Run {
    float v[N];
};

/// `4 * WORDS` bytes in as few accesses as there can be; p is a multiple of the largest power of two in it, up to 16.
template <int WORDS>
__device__ __forceinline__ void load_words(const void* p, u32 (&words)[WORDS]) {
    if constexpr (WORDS % 4 == 0) {
        for (int i = 0; i < WORDS / 4; i++) {
            uint4 q = static_cast<const uint4*>(p)[i];
            words[4 * i] = q.x, words[4 * i + 1] = q.y, words[4 * i + 2] = q.z, words[4 * i + 3] = q.w;
        }
    } else if constexpr (WORDS == 2) {
        uint2 q = *static_cast<const uint2*>(p);
        words[0] = q.x, words[1] = q.y;
    } else {
        for (int i = 0; i < WORDS; i++) words[i] = static_cast<const u32*>(p)[i];
    }
}

template <int WORDS>
__device__ __forceinline__ void store_words(void* p, const u32 (&words)[WORDS]) {
    if constexpr (WORDS % 4 == 0) {
        for (int i = 0; i < WORDS / 4; i++)
            static_cast<uint4*>(p)[i] = make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    } else if constexpr (WORDS == 2) {
        *static_cast<uint2*>(p) = make_uint2(words[0], words[1]);
    } else {
        for (int i = 0; i < WORDS; i++) static_cast<u32*>(p)[i] = words[i];
    }
}

template <int N>
__device__ __forceinline__ Run<N> load(const float* p) {
    Run<N> run;
    u32 words[N];
    load_words(p, words);
    for (int i = 0; i < N; i++) run.v[i] = __uint_as_float(words[i]);
    return run;
}

template <int N>
__device__ __forceinline__ Run<N> load(const bf16* p) {
    Run<N> run;
    if constexpr (N == 1) {
        run.v[0] = to_float(*p);
    } else {
        u32 pairs[N / 2];
        load_words(p, pairs);
        for (int i = 0; i < N; i++) run.v[i] = i % 2 ? high_half(pairs[i / 2]) : low_half(pairs[i / 2]);
    }
    return run;
}

template <int N>
__device__ __forceinline__ void store(float* p, const Run<N>& run) {
    u32 words[N];
    for (int i = 0; i < N; i++) words[i] = __float_as_uint(run.v[i]);
    store_words(p, words);
}

template <int N>
__device__ __forceinline__ void store(bf16* p, const Run<N>& run) {
    if constexpr (N == 1) {
        *p = to_bf16(run.v[0]);
    } else {
        u32 pairs[N / 2];
        for (int i = 0; i < N / 2; i++) pairs[i] = pack(run.v[2 * i], run.v[2 * i + 1]);
        store_words(p, pairs);
    }
}

/// Tells a body how many numbers a run has.
template <int WIDTH>
struct Width {
    static constexpr int N = WIDTH;
};

/// Calls `body(Width<N>(), first column)` for the runs of a row of `cols`, a multiple of N. Threads of the blocks that
/// share `blockIdx.x` share the row.
template <int N, class Body>
__device__ __forceinline__ void for_runs(int cols, Body body) {
    int first = int(blockIdx.y * blockDim.x + threadIdx.x) * N, step = int(gridDim.y * blockDim.x) * N;
    for (int i = first; i < cols; i += step) body(Width<N>(), i);
}

/// The same with the widest runs that rows of `cols` allow.
template <class Body>
__device__ __forceinline__ void for_columns(int cols, Body body) {
    if (cols % 8 == 0)
        for_runs<8>(cols, body);
    else
        for_runs<1>(cols, body);
}

/// Calls `body` for numbers `[0, n)` of a launch of `ceil(n / 1024)` blocks of 256 threads, four to a thread.
template <class Body>
__device__ __forceinline__ void for_numbers(long long n, Body body) {
    long long i = (long long)(blockIdx.x) * 1024 + threadIdx.x * 4;
    if (i + 4 <= n)
        body(Width<4>(), i);
    else
        for (; i < n; i++) body(Width<1>(), i);
}
