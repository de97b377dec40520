// What is done to activations number by number. Arithmetic is f32, rounded once on the way out.

/// `x += delta`. Grid ceil(n / 1024) x 256.
extern "C" __global__ void __launch_bounds__(256) add(float* x, const bf16* delta, long long n) {
    wait_for_kernels_ahead();
    for_numbers(n, [&](auto width, long long i) {
        constexpr int N = decltype(width)::N;
        Run<N> run = load<N>(x + i), more = load<N>(delta + i);
        for (int j = 0; j < N; j++) run.v[j] = __fadd_rn(run.v[j], more.v[j]);
        store(x + i, run);
    });
}

/// bf16 to f32. Grid ceil(n / 1024) x 256.
extern "C" __global__ void __launch_bounds__(256) widen(const bf16* x, float* out, long long n) {
    wait_for_kernels_ahead();
    for_numbers(n, [&](auto width, long long i) { store(out + i, load<decltype(width)::N>(x + i)); });
}

/// f32 to bf16, to nearest even. Grid ceil(n / 1024) x 256.
extern "C" __global__ void __launch_bounds__(256) narrow(const float* x, bf16* out, long long n) {
    wait_for_kernels_ahead();
    for_numbers(n, [&](auto width, long long i) { store(out + i, load<decltype(width)::N>(x + i)); });
}

/// `x[r] += bias`. Grid (rows, any) x 256.
extern "C" __global__ void __launch_bounds__(256) add_bias(bf16* x, const float* bias, int cols) {
    wait_for_kernels_ahead();
    x += size_t(blockIdx.x) * cols;
    for_columns(cols, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        Run<N> run = load<N>(x + i), more = load<N>(bias + i);
        for (int j = 0; j < N; j++) run.v[j] = __fadd_rn(run.v[j], more.v[j]);
        store(x + i, run);
    });
}

/// `out = silu(gate) * up` of rows `[gate | up]`; `out` is `[rows, ffn]`. Grid (rows, any) x 256.
extern "C" __global__ void __launch_bounds__(256) swiglu(const bf16* gate_up, bf16* out, int ffn) {
    wait_for_kernels_ahead();
    gate_up += size_t(blockIdx.x) * 2 * ffn;
    out += size_t(blockIdx.x) * ffn;
    for_columns(ffn, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        Run<N> gate = load<N>(gate_up + i), up = load<N>(gate_up + ffn + i);
        for (int j = 0; j < N; j++) gate.v[j] = gate.v[j] / (1.0f + expf(-gate.v[j])) * up.v[j];
        store(out + i, gate);
    });
}

/// `x = gelu(x + bias)`, the exact one; bias may be null. Grid (rows, any) x 256.
extern "C" __global__ void __launch_bounds__(256) gelu_bias(bf16* x, const float* bias, int cols) {
    wait_for_kernels_ahead();
    x += size_t(blockIdx.x) * cols;
    for_columns(cols, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        Run<N> run = load<N>(x + i), more = {};
        if (bias) more = load<N>(bias + i);
        for (int j = 0; j < N; j++) {
            float y = __fadd_rn(run.v[j], more.v[j]);
            // x Phi(x) by erfc keeps the small values of negative x, which 1 + erf cancels away.
            run.v[j] = 0.5f * y * erfcf(-0.70710678f * y);
        }
        store(x + i, run);
    });
}
