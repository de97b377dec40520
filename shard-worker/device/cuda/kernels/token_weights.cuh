// What tokens weigh beside the best one, in fixed point: a sum of weights is exact, whatever its order.
//
// A weight comes of f32 and integers alone, rounded in the same places on every device. In f64 GPUs other than those for data
// centres do a sixty-fourth of what they do in f32, and a row has a weight for each token of the vocabulary.

/// What the best token weighs.
constexpr u64 WEIGHT_ONE = u64(1) << 40;

/// 2^(32 - f), `f` being in units of 2^-32, within 2e-9 of itself: a polynomial that is within 5e-11 of it, by Horner's scheme.
__device__ __forceinline__ u64 power_of_half(u32 f) {
    u32 sum = 0x9a4d5u - __umulhi(f, 0xb4fdu);
    sum = 0x57027bu - __umulhi(f, sum);
    sum = 0x276293au - __umulhi(f, sum);
    sum = 0xe357956u - __umulhi(f, sum);
    sum = 0x3d7f7aaau - __umulhi(f, sum);
    sum = 0xb17217eau - __umulhi(f, sum);
    return (u64(1) << 32) - __umulhi(f, sum);
}

/// `e^((logit - best) / temperature)` in units of 2^-40, within 2e-9 of itself or half a unit.
struct Weights {
    float best;
    /// log2(e) / temperature, as a sum of two.
    float high, low;

    __device__ Weights(float best, float temperature) : best(best) {
        // log2(e) as a sum of two; then what is left of the first after the division.
        const float whole = 1.44269502f, rest = 1.92596299e-8f;
        high = __fdiv_rn(whole, temperature);
        low = __fdiv_rn(__fadd_rn(__fmaf_rn(-high, temperature, whole), rest), temperature);
    }

    __device__ u64 operator()(u32 key) const {
        // The distance, and by how many halvings it weighs less: each rounded, and what the rounding left over.
        float logit = key_logit(key), distance = __fsub_rn(best, logit), back = __fsub_rn(distance, best);
        float halvings = __fmul_rn(distance, high);
        if (distance == 0) return WEIGHT_ONE;
        if (!(halvings < 42)) return 0;
        float over = __fsub_rn(__fsub_rn(best, __fsub_rn(distance, back)), __fadd_rn(logit, back));
        over = __fmaf_rn(over, high, __fmaf_rn(distance, low, __fmaf_rn(distance, high, -halvings)));
        // In units of 2^-32. Conversions are of 32 bits: those of 64 are as slow as f64.
        u32 coarse = u32(__fmul_rn(halvings, 0x1p26f));
        float fine = __fadd_rn(__fmaf_rn(float(coarse), -0x1p-26f, halvings), over);
        u64 units = (u64(coarse) << 6) + u64((long long)(int(__fmul_rn(fine, 0x1p32f))));
        u32 whole = u32(units >> 32);
        return ((power_of_half(u32(units)) << 8) + (u64(1) << whole >> 1)) >> whole;
    }
};
