// How keys and values lie in the paged cache.
//
// Those of a layer are two arrays of [blocks][kv_heads] heads' blocks, one of keys and one of values. A head's block is
// BLOCK_TOKENS tokens of head_dim numbers: bf16; or e4m3, behind which come the tokens' scales in f32, number = scale * e4m3.
// So what a block needs is read with it, and begins at a multiple of 64 bytes.
//
// Of 16 numbers of e4m3, i and i + 8 lie side by side. What ldmatrix gives a lane of 16 numbers are then the pairs that it has as
// part of mma's B operand: of keys, whose numbers are multiplied; and, transposed, of values, whose tokens are.

constexpr int SCALE_BYTES = int(sizeof(float));

/// Numbers of T that a head's block takes.
template <class T>
__device__ __forceinline__ constexpr int head_block(int head_dim) {
    return BLOCK_TOKENS * (sizeof(T) == 1 ? head_dim + SCALE_BYTES : head_dim);
}

/// 8 of 16 numbers as the cache has them: of numbers [0, 8) one half and of [8, 16) the same, four codes each.
__device__ __forceinline__ uint2 interleave(u32 low, u32 high) { return make_uint2(__byte_perm(low, high, 0x5140), __byte_perm(low, high, 0x7362)); }
