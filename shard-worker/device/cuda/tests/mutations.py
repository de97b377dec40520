"""Bugs that the tests must notice: a text of a kernel file, which it has once, what takes its place, and the test to fail."""

from typing import NamedTuple


class Mutation(NamedTuple):
    file: str
    text: str
    bug: str
    test: str


MUTATIONS = [
    Mutation("common.cuh", "if (lane_id() == 0) sums[warp_id()] = x;\n    __syncthreads();", "if (lane_id() == 0) sums[warp_id()] = x;", "norm"),
    Mutation("common.cuh", "0x7fff + (bits >> 16 & 1)", "0x8000", "elementwise"),
    Mutation("rows.cuh", "i + 4 <= n", "i < n", "elementwise"),
    Mutation("rows.cuh", "cols % 8 == 0", "cols % 4 == 0", "embed"),
    Mutation("rows.cuh", "i % 2 ? high_half(", "i % 2 ? low_half(", "embed"),
    Mutation("embed.cuh", "token - first < held", "token - first <= held", "embed"),
    Mutation("embed.cuh", "if (token < 0) return;", "", "embed"),
    Mutation("embed.cuh", "size_t(to[blockIdx.x])", "size_t(blockIdx.x)", "embed"),
    Mutation("norm.cuh", "__fadd_rn(mean, eps)", "mean", "norm"),
    Mutation("norm.cuh", "block_sum<8>(squares)", "warp_sum(squares)", "norm"),
    Mutation("norm.cuh", "        store(x + i, run);\n", "", "norm"),
    Mutation("norm.cuh", "load<N>(delta + row + i)", "load<N>(delta + i)", "norm"),
    Mutation("elementwise.cuh", "load<N>(delta + i)", "load<N>(delta)", "elementwise"),
    Mutation("elementwise.cuh", "widen(const bf16* x, float* out, long long n) {\n    for_numbers(n,", "widen(const bf16* x, float* out, long long n) {\n    for_numbers(n - 1,", "elementwise"),
    Mutation("elementwise.cuh", "narrow(const float* x, bf16* out, long long n) {\n    for_numbers(n,", "narrow(const float* x, bf16* out, long long n) {\n    for_numbers(n + 1,", "elementwise"),
    Mutation("elementwise.cuh", "load<N>(x + i), more = load<N>(bias + i)", "load<N>(x + i), more = load<N>(bias)", "elementwise"),
    Mutation("elementwise.cuh", "load<N>(gate_up + ffn + i)", "load<N>(gate_up + i)", "elementwise"),
    Mutation("elementwise.cuh", "expf(-gate.v[j])", "expf(gate.v[j])", "elementwise"),
    Mutation("elementwise.cuh", "if (bias) more", "more", "elementwise"),
    Mutation("elementwise.cuh", "erfcf(-0.70710678f * y)", "erfcf(-0.7f * y)", "elementwise"),
    Mutation("rotary.cuh", "-__fmul_rn(b, sin)", "__fmul_rn(b, sin)", "rotary"),
    Mutation("rotary.cuh", "load<N>(cos_sin + i % head_dim)", "load<N>(cos_sin)", "rotary"),
    Mutation("rotary.cuh", "(heads + kv_heads) * head_dim, head_dim", "(heads + 2 * kv_heads) * head_dim, head_dim", "rotary"),
    Mutation("rotary.cuh", "slot % BLOCK_TOKENS;", "slot;", "rotary"),
    Mutation("rotary.cuh", "(is_key ? 0 : kv_heads)", "0", "rotary"),
    Mutation("rotary.cuh", "else if (slot >= 0)", "else", "rotary"),
    Mutation("dummy.cuh", "row_key + u64(column / 8)", "row_key + u64(i / 8)", "dummy"),
    Mutation("dummy.cuh", "u64(first_row + blockIdx.x)", "u64(blockIdx.x)", "dummy"),
    Mutation("logits.cuh", "edit.count > 0", "edit.count >= 0", "sample"),
    Mutation("logits.cuh", "edit.flags & EDIT_MASK ? minus_infinity() : *at", "*at", "sample"),
    Mutation("logits.cuh", "(size_t(edit.token / part) * rows + blockIdx.x) * part", "size_t(edit.token / part) * part", "sample"),
    Mutation("logits.cuh", "__fadd_rn(logit, 0.0f)", "logit", "sample"),
    Mutation("logits.cuh", "return logit != logit ? 0xffffffffu : key;", "return key;", "sample"),
    Mutation("logits.cuh", "key > highest", "key >= highest", "sample"),
    Mutation("logits.cuh", "part % 4 == 0", "part % 2 == 0", "sample"),
    Mutation("logits.cuh", "key < KEY_OF_INFINITY", "true", "sample"),
    Mutation("select.cuh", "(old + u32(x) < old ? 1 : 0)", "0", "sample"),
    Mutation("select.cuh", "wanted - before + one - 1", "wanted - before", "sample"),
    Mutation("select.cuh", "other_id <= id", "other_id < id", "sample"),
    Mutation("select.cuh", "sum + more >= wanted", "sum + more > wanted", "sample"),
    Mutation("select.cuh", "by_distance(key) <= bin", "by_distance(key) < bin", "sample"),
    Mutation("select.cuh", "low = high - spread", "low = high", "sample"),
    Mutation("select.cuh", "fminf((BINS - 1) / width, 3.4e38f)", "(BINS - 1) / width", "sample"),
    Mutation("select.cuh", "min(row.vocab, begin + range)", "begin + range", "sample"),
    Mutation("select.cuh", "if (at <= passed) scratch", "if (at < passed) scratch", "sample"),
    Mutation("select.cuh", "scratch.low[i] = scratch.high[i] = 0;\n    __syncthreads();", "scratch.low[i] = scratch.high[i] = 0;", "sample"),
    Mutation("select.cuh", "scratch.of_warps[warp_id()] = sum;\n    __syncthreads();", "scratch.of_warps[warp_id()] = sum;", "sample"),
    Mutation("sample.cuh", "ceil(double(params.top_p) * double(total))", "double(params.top_p) * double(total)", "sample"),
    Mutation("sample.cuh", "weights.relative(key) >= floor &&", "", "sample"),
    Mutation("sample.cuh", "params.temperature > 0", "params.temperature >= 0", "sample"),
    Mutation("sample.cuh", "target < total ? target : total - 1", "target", "sample"),
    Mutation("logprobs.cuh", "found[j] > found[i]", "found[j] >= found[i]", "logprobs"),
    Mutation("logprobs.cuh", "max + log(", "log(", "logprobs"),
    Mutation("logprobs.cuh", "u32(~id)", "u32(id)", "logprobs"),
    Mutation("logprobs.cuh", "if (threadIdx.x == 0) count = 0;\n    __syncthreads();", "if (threadIdx.x == 0) count = 0;", "logprobs"),
]
