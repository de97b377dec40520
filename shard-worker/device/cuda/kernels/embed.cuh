// Looking rows up.

/// `x[r] = table[tokens[r] - first]`; zeros where another rank holds the token; a row of a negative token stays as it is
/// (an image feature goes there). Grid (rows, any) x 256.
extern "C" __global__ void __launch_bounds__(256)
    embed(const bf16* table, int first, int held, const int* tokens, float* x, int dim) {
    wait_for_kernels_ahead();
    int token = tokens[blockIdx.x];
    if (token < 0) return;
    bool here = token >= first && token - first < held;
    const bf16* from = table + (here ? size_t(token - first) * dim : 0);
    float* to = x + size_t(blockIdx.x) * dim;
    for_columns(dim, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        Run<N> run = {};
        if (here) run = load<N>(from + i);
        store(to + i, run);
    });
}

/// `out[to[i]] = from[rows[i]]`. Grid (count, any) x 256.
template <class T, class U>
__device__ __forceinline__ void copy_row(const T* from, const int* rows, U* out, const int* to, int cols) {
    from += size_t(rows[blockIdx.x]) * cols;
    out += size_t(to[blockIdx.x]) * cols;
    for_columns(cols, [&](auto width, int i) { store(out + i, load<decltype(width)::N>(from + i)); });
}

extern "C" __global__ void __launch_bounds__(256)
    copy_rows_ff(const float* from, const int* rows, float* out, const int* to, int cols) {
    wait_for_kernels_ahead();
    copy_row(from, rows, out, to, cols);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_rows_wf(const bf16* from, const int* rows, float* out, const int* to, int cols) {
    wait_for_kernels_ahead();
    copy_row(from, rows, out, to, cols);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_rows_ww(const bf16* from, const int* rows, bf16* out, const int* to, int cols) {
    wait_for_kernels_ahead();
    copy_row(from, rows, out, to, cols);
}
