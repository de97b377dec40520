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

template <class U>
__device__ __forceinline__ void rms_norm_row(const float* x, const float* scale, U* out, int cols, float eps) {
    x += size_t(blockIdx.x) * cols;
    float squares = 0;
    for_columns(cols, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        Run<N> run = load<N>(x + i);
        for (int j = 0; j < N; j++) squares = __fmaf_rn(run.v[j], run.v[j], squares);
    });
    rms_scale(x, scale, out + size_t(blockIdx.x) * cols, cols, rms_factor(squares, cols, eps));
}

extern "C" __global__ void __launch_bounds__(256)
    rms_norm_fw(const float* x, const float* scale, bf16* out, int cols, float eps) {
    rms_norm_row(x, scale, out, cols, eps);
}
extern "C" __global__ void __launch_bounds__(256)
    rms_norm_ff(const float* x, const float* scale, float* out, int cols, float eps) {
    rms_norm_row(x, scale, out, cols, eps);
}

/// `x += delta`, then the norm of it: the same bits as `add` and `rms_norm_fw`, with the residual stream read once.
extern "C" __global__ void __launch_bounds__(256)
    add_rms_norm(float* x, const bf16* delta, const float* scale, bf16* out, int cols, float eps) {
    size_t row = size_t(blockIdx.x) * cols;
    x += row;
    float squares = 0;
    for_columns(cols, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        Run<N> run = load<N>(x + i), more = load<N>(delta + row + i);
        for (int j = 0; j < N; j++) {
            run.v[j] = __fadd_rn(run.v[j], more.v[j]);
            squares = __fmaf_rn(run.v[j], run.v[j], squares);
        }
        store(x + i, run);
    });
    // A thread reads again what it wrote itself, so the barrier of the sum is all that is needed.
    rms_scale(x, scale, out + row, cols, rms_factor(squares, cols, eps));
}
