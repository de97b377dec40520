// Rows of logits as they were gathered, `[parts][rows][part]`, and what is done to them before sampling.

/// How a row is sampled.
struct SampleRow {
    /// The share drawn, in units of 2^-64.
    u64 uniform;
    float temperature, top_p, min_p, repetition, frequency, presence;
    u32 top_k, edits_begin, edits_end;
    /// The row's token whatever its logits; NONE where it is to be chosen.
    u32 given;
    /// How many of the most probable tokens are told beside the row's; NONE where no log-probability is.
    u32 described;
    u32 pad;
};

constexpr u32 NONE = 0xffffffffu;

/// What is done to a token's logit. A row has at most one of a token.
struct SampleEdit {
    u32 token;
    /// What is added; once that is done, the logit as it was.
    float bias;
    int count;
    u32 flags;
};

static_assert(sizeof(SampleRow) == 56 && sizeof(SampleEdit) == 16, "the host lays them out");

constexpr u32 EDIT_MASK = 1;
constexpr u32 EDIT_PENALISE = 2;

/// Calls `body(edit, its logit)` for a row's edits. Grid rows x 256.
template <class Body>
__device__ __forceinline__ void for_edits(float* logits, int parts, int rows, int part, const SampleRow& row, SampleEdit* edits, Body body) {
    for (u32 i = row.edits_begin + threadIdx.x; i < row.edits_end; i += blockDim.x) {
        u32 token = edits[i].token;
        if (token / u32(part) < u32(parts)) body(edits[i], logits[(size_t(token / part) * rows + blockIdx.x) * part + token % part]);
    }
}

/// Masks to -inf, then biases, then penalties, as shard-worker/model/src/sampling does, in place. `edits` is indexed by
/// `edits_begin..edits_end` of the row. What is no number, or +inf, stays so. Grid rows x 256.
extern "C" __global__ void __launch_bounds__(256)
    edit_logits(float* logits, int parts, int rows, int part, const SampleRow* row_params, SampleEdit* edits) {
    wait_for_kernels_ahead();
    const SampleRow params = row_params[blockIdx.x];
    for_edits(logits, parts, rows, part, params, edits, [&](SampleEdit& edit, float& at) {
        float before = at, logit = edit.flags & EDIT_MASK && before < -minus_infinity() ? minus_infinity() : before;
        logit = __fadd_rn(logit, edit.bias);
        edit.bias = before;
        if (edit.flags & EDIT_PENALISE) {
            logit = logit > 0 ? __fdiv_rn(logit, params.repetition) : __fmul_rn(logit, params.repetition);
            if (edit.count > 0) {
                logit = __fsub_rn(logit, __fmul_rn(params.frequency, float(edit.count)));
                logit = __fsub_rn(logit, params.presence);
            }
        }
        at = logit;
    });
}

/// Logits as they were before `edit_logits`. Grid rows x 256.
extern "C" __global__ void __launch_bounds__(256)
    restore_logits(float* logits, int parts, int rows, int part, const SampleRow* row_params, SampleEdit* edits) {
    wait_for_kernels_ahead();
    for_edits(logits, parts, rows, part, row_params[blockIdx.x], edits, [](SampleEdit& edit, float& at) { at = edit.bias; });
}

constexpr int LOGIT_THREADS = 1024;
constexpr int LOGIT_WARPS = LOGIT_THREADS / WARP_LANES;

/// Integers in the order of the logits: NaN above all, +0 and -0 equal.
__device__ __forceinline__ u32 logit_key(float logit) {
    u32 bits = __float_as_uint(__fadd_rn(logit, 0.0f));
    u32 key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return logit != logit ? 0xffffffffu : key;
}

__device__ __forceinline__ float key_logit(u32 key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

constexpr u32 KEY_OF_MINUS_INFINITY = 0x007fffffu;
constexpr u32 KEY_OF_INFINITY = 0xff800000u;

/// Logits of four ids; those beyond the vocabulary mean nothing.
struct FourLogits {
    float v[4];
};

/// One row, walked by a block in runs of four ids.
struct LogitRow {
    const float* logits;
    int rows, part, vocab;

    __device__ float at(int id) const { return logits[size_t(id / part) * rows * part + id % part]; }

    /// Of ids `id..id + 4`, `id` being a multiple of 4 below `vocab`.
    __device__ FourLogits four(int id) const {
        FourLogits four;
        if (part % 4 == 0) {
            float4 q = *reinterpret_cast<const float4*>(logits + size_t(id / part) * rows * part + id % part);
            four.v[0] = q.x, four.v[1] = q.y, four.v[2] = q.z, four.v[3] = q.w;
        } else {
            for (int i = 0; i < 4; i++) four.v[i] = id + i < vocab ? at(id + i) : minus_infinity();
        }
        return four;
    }

    /// Calls `body(logit, id)` for the row's ids; which thread sees which, and in which order, depends on `vocab` alone.
    template <class Body>
    __device__ void for_ids(Body body) const {
        for (int id = int(threadIdx.x) * 4; id < vocab; id += LOGIT_THREADS * 4) {
            FourLogits four = this->four(id);
            for (int i = 0; i < 4; i++)
                if (id + i < vocab) body(four.v[i], id + i);
        }
    }

    /// The same in the same order, with several runs under way, for bodies that leave it the registers.
    template <class Body>
    __device__ void for_ids_ahead(Body body) const {
        constexpr int LINE = LOGIT_THREADS * 4, LINES = 4;
        for (int first = int(threadIdx.x) * 4; first < vocab; first += LINES * LINE) {
            FourLogits fours[LINES];
#pragma unroll
            for (int line = 0; line < LINES; line++)
                if (first + line * LINE < vocab) fours[line] = four(first + line * LINE);
#pragma unroll
            for (int line = 0; line < LINES; line++)
                for (int i = 0; i < 4; i++)
                    if (first + line * LINE + i < vocab) body(fours[line].v[i], first + line * LINE + i);
        }
    }
};

__device__ __forceinline__ LogitRow logit_row(const float* logits, int rows, int part, int vocab) {
    return {logits + size_t(blockIdx.x) * part, rows, part, vocab};
}

/// The highest logit and the lowest id that has it.
struct Best {
    u32 key;
    int id;
    /// No NaN, no +inf, not all -inf.
    __device__ bool finite() const { return key > KEY_OF_MINUS_INFINITY && key < KEY_OF_INFINITY; }
    __device__ float logit() const { return key_logit(key); }
};

__device__ __forceinline__ u64 larger(u64 a, u64 b) { return a < b ? b : a; }

__device__ __forceinline__ Best find_best(const LogitRow& row) {
    __shared__ u64 of_warps[LOGIT_WARPS];
    u32 highest = 0;
    int first = 0;
    row.for_ids_ahead([&](float logit, int id) {
        u32 key = logit_key(logit);
        if (key > highest) highest = key, first = id;
    });
    // Among equal keys the larger complement is the lower id.
    u64 best = u64(highest) << 32 | u32(~first);
    for (int with = WARP_LANES / 2; with > 0; with /= 2) best = larger(best, __shfl_xor_sync(ALL_LANES, best, with));
    if (lane_id() == 0) of_warps[warp_id()] = best;
    __syncthreads();
    for (int w = 0; w < LOGIT_WARPS; w++) best = larger(best, of_warps[w]);
    return {u32(best >> 32), int(~u32(best))};
}
