// RMS normalisation: `out = x / sqrt(mean(x^2) + eps) * scale`. Grid (rows, 1) x 256: one block holds a row's sum.

/// What a thread found on its way along the row becomes the row's factor. The order of the sum depends on `cols` alone.
__device__ __forceinline__ float rms_factor(float squares, int cols, float eps) {
    float mean = __fdiv_rn(block_sum<8>(squares), float(cols));
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

template <class U>
__device__ __forceinline__ void rms_scale(const float* x, const float* scale, U* out, int cols, float factor) {
    for_columns(cols, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        Run<N> run = load<N>(x + i), by = load<N>(scale + i);
        for (int j = 0; j < N; j++) run.v[j] = __fmul_rn(__fmul_rn(run.v[j], factor), by.v[j]);
        store(out + i, run);
    });
}

/// Runs of 8 that a thread holds: rows of up to NORM_HELD * 2048 columns, such as Pixtral's 5120, are read once. With few
/// rows a block has a processor for itself and waits for its memory alone, so all it needs is asked for before any of it is used.
constexpr int NORM_HELD = 3;
constexpr int NORM_THREADS = 256;

/// Calls `body(which, first column)` for the runs of a thread, which rows of so few columns do not have all of.
template <class Body>
__device__ __forceinline__ void for_held(int cols, Body body) {
#pragma unroll
    for (int r = 0; r < NORM_HELD; r++) {
        int i = (r * NORM_THREADS + int(threadIdx.x)) * 8;
        if (i < cols) body(r, i);
    }
}

/// A row is x, or where there is a delta their sum, which is written back to x.
template <bool HAS_DELTA, class X, class U>
__device__ __forceinline__ void norm_held(X* x, const bf16* delta, const float* scale, U* out, int cols, float eps) {
    Run<8> run[NORM_HELD], more[NORM_HELD], by[NORM_HELD];
    for_held(cols, [&](int r, int i) {
        run[r] = load<8>(x + i);
        if constexpr (HAS_DELTA) more[r] = load<8>(delta + i);
        by[r] = load<8>(scale + i);
    });
    float squares = 0;
    for_held(cols, [&](int r, int i) {
        for (int j = 0; j < 8; j++) {
            if constexpr (HAS_DELTA) run[r].v[j] = __fadd_rn(run[r].v[j], more[r].v[j]);
            squares = __fmaf_rn(run[r].v[j], run[r].v[j], squares);
        }
        if constexpr (HAS_DELTA) store(x + i, run[r]);
    });
    float factor = rms_factor(squares, cols, eps);
    for_held(cols, [&](int r, int i) {
        for (int j = 0; j < 8; j++) run[r].v[j] = __fmul_rn(__fmul_rn(run[r].v[j], factor), by[r].v[j]);
        store(out + i, run[r]);
    });
}

/// The same for rows of any length, in the same order.
template <bool HAS_DELTA, class X, class U>
__device__ __forceinline__ void norm_row(X* x, const bf16* delta, const float* scale, U* out, int cols, float eps) {
    if (cols % 8 == 0 && cols <= NORM_HELD * NORM_THREADS * 8) return norm_held<HAS_DELTA>(x, delta, scale, out, cols, eps);
    float squares = 0;
    for_columns(cols, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        Run<N> run = load<N>(x + i), more = {};
        if constexpr (HAS_DELTA) more = load<N>(delta + i);
        for (int j = 0; j < N; j++) {
            if constexpr (HAS_DELTA) run.v[j] = __fadd_rn(run.v[j], more.v[j]);
            squares = __fmaf_rn(run.v[j], run.v[j], squares);
        }
        if constexpr (HAS_DELTA) store(x + i, run);
    });
    // A thread reads again what it wrote itself, so the barrier of the sum is all that is needed.
    rms_scale(x, scale, out, cols, rms_factor(squares, cols, eps));
}

template <class U>
__device__ __forceinline__ void rms_norm_row(const float* x, const float* scale, U* out, int cols, float eps) {
    size_t row = size_t(blockIdx.x) * cols;
    norm_row<false>(x + row, nullptr, scale, out + row, cols, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    rms_norm_fw(const float* x, const float* scale, bf16* out, int cols, float eps) {
    wait_for_kernels_ahead();
    rms_norm_row(x, scale, out, cols, eps);
}
extern "C" __global__ void __launch_bounds__(256)
    rms_norm_ff(const float* x, const float* scale, float* out, int cols, float eps) {
    wait_for_kernels_ahead();
    rms_norm_row(x, scale, out, cols, eps);
}

/// `x += delta`, then the norm of it: the same bits as `add` and `rms_norm_fw`, with the residual stream read once.
extern "C" __global__ void __launch_bounds__(256)
    add_rms_norm(float* x, const bf16* delta, const float* scale, bf16* out, int cols, float eps) {
    wait_for_kernels_ahead();
    size_t row = size_t(blockIdx.x) * cols;
    norm_row<true>(x + row, delta + row, scale, out + row, cols, eps);
}
