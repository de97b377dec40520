// Rotary positions: pairs (2i, 2i + 1) of queries and keys turn by the angles of their row's position.
//
// A fused row is `[heads * head_dim queries | kv_heads * head_dim keys | kv_heads * head_dim values]`; `cos_sin` is
// `[positions][head_dim / 2][2]`. The cache of a layer is `[blocks][kv_heads][BLOCK_TOKENS][head_dim]` of keys, and the
// same of values.

template <int N>
__device__ __forceinline__ Run<N> turn(const Run<N>& x, const Run<N>& angles) {
    Run<N> turned;
    for (int i = 0; i < N; i += 2) {
        float a = x.v[i], b = x.v[i + 1], cos = angles.v[i], sin = angles.v[i + 1];
        turned.v[i] = __fmaf_rn(a, cos, -__fmul_rn(b, sin));
        turned.v[i + 1] = __fmaf_rn(a, sin, __fmul_rn(b, cos));
    }
    return turned;
}

/// Runs of a row of heads, none across two heads.
template <class Body>
__device__ __forceinline__ void for_heads(int cols, int head_dim, Body body) {
    if (head_dim % 8 == 0)
        for_runs<8>(cols, body);
    else
        for_runs<2>(cols, body);
}

/// Turns queries and keys in place. Grid (rows, any) x 256.
extern "C" __global__ void __launch_bounds__(256)
    rotate(bf16* qkv, const float* cos_sin, const int* positions, int heads, int kv_heads, int head_dim) {
    wait_for_kernels_ahead();
    qkv += size_t(blockIdx.x) * (heads + 2 * kv_heads) * head_dim;
    cos_sin += size_t(positions[blockIdx.x]) * head_dim;
    for_heads((heads + kv_heads) * head_dim, head_dim, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        store(qkv + i, turn(load<N>(qkv + i), load<N>(cos_sin + i % head_dim)));
    });
}

/// Turns queries in place; turned keys, and values, go to the cache: to `slots[row]`, which is block * BLOCK_TOKENS +
/// offset. A row of a negative slot stores nothing. Grid (rows, any) x 256.
extern "C" __global__ void __launch_bounds__(256)
    rotate_store(bf16* qkv, const float* cos_sin, const int* positions, const int* slots, bf16* keys, bf16* values, int heads,
                 int kv_heads, int head_dim) {
    wait_for_kernels_ahead();
    int slot = slots[blockIdx.x];
    qkv += size_t(blockIdx.x) * (heads + 2 * kv_heads) * head_dim;
    cos_sin += size_t(positions[blockIdx.x]) * head_dim;
    size_t block = size_t(slot / BLOCK_TOKENS) * kv_heads;
    for_heads((heads + 2 * kv_heads) * head_dim, head_dim, [&](auto width, int i) {
        constexpr int N = decltype(width)::N;
        int head = i / head_dim, column = i % head_dim;
        Run<N> run = load<N>(qkv + i);
        if (head < heads + kv_heads) run = turn(run, load<N>(cos_sin + column));
        if (head < heads) {
            store(qkv + i, run);
        } else if (slot >= 0) {
            bool is_key = head < heads + kv_heads;
            int kv_head = head - heads - (is_key ? 0 : kv_heads);
            size_t place = (block + kv_head) * BLOCK_TOKENS + slot % BLOCK_TOKENS;
            store((is_key ? keys : values) + place * head_dim + column, run);
        }
    });
}
