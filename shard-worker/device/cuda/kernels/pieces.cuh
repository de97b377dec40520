// Rows in shared memory, in pieces of 16 bytes, laid out so that ldmatrix meets no bank conflict.

/// Numbers of bf16 in a piece.
constexpr int PIECE = 8;
/// Numbers of k in an mma.
constexpr int MMA_K = 16;

/// Where a piece of a row of PIECES lies: the same piece of 8 neighbouring rows in 8 different groups of banks.
template <int PIECES>
__device__ __forceinline__ int piece_at(int row, int piece) {
    static_assert(PIECES == 2 || PIECES == 4 || PIECES % 8 == 0, "a row is 32 bytes, 64 or a multiple of 128");
    if (PIECES < 8) return row * PIECES + (piece ^ (row * PIECES >> 3 & (PIECES - 1)));
    return row * PIECES + (piece & ~7) + ((piece ^ row) & 7);
}

/// Number `i` of 4 that a lane has of d[16, 8] = a[16, k] b[k, 8]: its row and its column.
__device__ __forceinline__ int sum_row(int lane, int i) { return lane / 4 + i / 2 * 8; }
__device__ __forceinline__ int sum_column(int lane, int i) { return lane % 4 * 2 + i % 2; }
