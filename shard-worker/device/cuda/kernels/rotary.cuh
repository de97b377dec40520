// Rotary positions: pairs (2i, 2i + 1) of queries and keys turn by the angles of their row's position.
//
// A fused row is `[heads * head_dim queries | kv_heads * head_dim keys | kv_heads * head_dim values]`; `cos_sin` is
// `[positions][head_dim / 2][2]`. The cache of a layer lies as cache.cuh says.

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

/// Four numbers over a scale, a code a byte.
__device__ __forceinline__ u32 quantise_four(const float* numbers, float scale) {
    u32 codes = 0;
    for (int i = 0; i < 4; i++) codes |= u32(to_e4m3(__fdiv_rn(numbers[i], scale)).bits) << 8 * i;
    return codes;
}

/// rotate_store for keys and values of e4m3: what it stores for a token and a head is divided by e4m3_scale of its largest number.
/// head_dim is 32, 64 or 128: neighbouring lanes have a head.
extern "C" __global__ void __launch_bounds__(256)
    rotate_store8(bf16* qkv, const float* cos_sin, const int* positions, const int* slots, e4m3* keys, e4m3* values, int heads,
                  int kv_heads, int head_dim) {
    wait_for_kernels_ahead();
    constexpr int RUN = 8;
    const int slot = slots[blockIdx.x], cols = (heads + 2 * kv_heads) * head_dim;
    qkv += size_t(blockIdx.x) * cols;
    cos_sin += size_t(positions[blockIdx.x]) * head_dim;
    const int warps = int(blockDim.x) / WARP_LANES;
    for (int first = (int(blockIdx.y) * warps + warp_id()) * WARP_LANES * RUN; first < cols; first += int(gridDim.y) * warps * WARP_LANES * RUN) {
        const int i = first + lane_id() * RUN, head = i / head_dim, column = i % head_dim;
        Run<RUN> run = {};
        if (i < cols) run = load<RUN>(qkv + i);
        if (head < heads + kv_heads) run = turn(run, load<RUN>(cos_sin + column));
        if (head < heads) store(qkv + i, run);
        float most = 0;
        for (float& number : run.v) {
            number = to_float(to_bf16(number));
            // A number that is not finite must not be lost in a maximum.
            most = fmaxf(most, fabsf(number) < -minus_infinity() ? fabsf(number) : -minus_infinity());
        }
        for (int with = 1; with < head_dim / RUN; with *= 2) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, with));
        const float scale = e4m3_scale(most);
        const u32 left = quantise_four(run.v, scale), right = quantise_four(run.v + 4, scale);
        // Of two lanes that have 16 numbers the first stores what lies in front.
        const bool second = lane_id() % 2;
        const u32 given = __shfl_xor_sync(ALL_LANES, second ? left : right, 1);
        if (head >= heads && i < cols && slot >= 0) {
            const bool is_key = head < heads + kv_heads;
            const int kv_head = head - heads - (is_key ? 0 : kv_heads), token = slot % BLOCK_TOKENS;
            e4m3* block = (is_key ? keys : values) + (size_t(slot / BLOCK_TOKENS) * kv_heads + kv_head) * head_block<e4m3>(head_dim);
            *reinterpret_cast<uint2*>(block + token * head_dim + column) = second ? interleave(given, right) : interleave(left, given);
            if (column == 0) reinterpret_cast<float*>(block + BLOCK_TOKENS * head_dim)[token] = scale;
        }
    }
}
