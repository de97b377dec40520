// The sum over ranks of few numbers, by one kernel on each: the one-shot all-reduce over memory that every device can reach.
//
// Each rank lays its numbers in a window of its own, tells the others, and adds what lies in all windows: as the host's
// collectives do, in f32 as a binary tree in rank order, rounded once. So all ranks have the same bits, and a sum does not depend on
// where its number lies.
//
// Every block keeps to itself: block b of a rank waits for blocks b of the others, and for nothing else. Its numbers lie in two
// buffers by turns, so that one meeting a call is enough: who writes a buffer has met the others in the call before, which each
// begins once its kernel of the call before that, which read the buffer, has ended. Blocks that wait need their like on the other
// devices to run, so there are fewer than any device runs at once.
//
// A device may be gone for good, so no wait is without an end: a word of the host's memory tells to stop, and a clock does.
// Whoever stops tells the others and the host, and every later kernel ends at once.

/// The most ranks, blocks, and bytes of a block's numbers.
constexpr int PEERS = 8;
constexpr int PEER_BLOCKS = 32;
constexpr int PEER_BYTES = 16 << 10;
/// Where a window's numbers begin: for each of two turns those of every block. The window is one group's; where groups follow each
/// other in the same memory they have other beginnings there, since what a late rank of an old group tells must not take the
/// place of what the next group's tells.
constexpr int PEER_NUMBERS = 64 << 10;
/// A call's number: below, how many the block had in this group; above, the group's mark.
constexpr int PEER_CALL_BITS = 40;
constexpr u64 PEER_CALLS = (u64(1) << PEER_CALL_BITS) - 1;
/// The call of a rank that has left.
constexpr u64 PEER_LEFT = PEER_CALLS;

/// Why a wait ended in vain, as the host reads it; 1 is the host's own word.
constexpr u64 PEER_IS_LATE = 2;
constexpr u64 PEER_IS_GONE = 3;

/// Looks for a peer between two at the host's word and the clock, which cost more.
constexpr u32 PEER_LOOKS = 256;

/// The beginning of a window. The host writes it before a group's first call.
struct PeerWindow {
    /// Every rank's window, as this device reaches it.
    u64 of_rank[PEERS];
    /// Not 0 once a wait has ended in vain.
    u64 is_over;
    u64 padding[7];
    /// The last call of each block.
    u64 calls[PEER_BLOCKS];
    /// The last call that each rank has told each block of.
    u64 told[PEER_BLOCKS][PEERS];
};
static_assert(sizeof(PeerWindow) <= PEER_NUMBERS, "numbers begin behind it");

/// Waits until a peer has told of a call. 0, or why not. `told` is what the block was told of by all.
__device__ __forceinline__ u64 wait_for_peer(const u64* told, int peer, int ranks, u64 call, const u64* stop, u64 limit) {
    u64 begin = 0;
    for (u32 look = 1;; look++) {
        u64 seen = load_acquire(told + peer);
        // What ranks of another group tell is none of this group's.
        if (seen >> PEER_CALL_BITS == call >> PEER_CALL_BITS && seen >= call) return seen == (call | PEER_LEFT) ? PEER_IS_GONE : 0;
        let_others_go_on();
        if (look % PEER_LOOKS) continue;
        // A rank that came to this call may leave while it waits for another.
        for (int r = 0; r < ranks; r++)
            if (load_acquire(told + r) == (call | PEER_LEFT)) return PEER_IS_GONE;
        if (u64 why = load_acquire(stop)) return why;
        u64 now = nanoseconds();
        // The clock may be set back.
        if (!begin || now < begin) begin = now;
        if (now - begin > limit) return PEER_IS_LATE;
    }
}

/// The sum of parts [FIRST, FIRST + COUNT) as a tree.
template <int FIRST, int COUNT>
__device__ __forceinline__ float tree_sum(const float* parts) {
    if constexpr (COUNT == 1)
        return parts[FIRST];
    else
        return __fadd_rn(tree_sum<FIRST, COUNT / 2>(parts), tree_sum<FIRST + COUNT / 2, COUNT - COUNT / 2>(parts));
}

/// Writes the sums of the numbers that lie `at` bytes into every one of the `windows`.
template <int RANKS, class T, int N>
__device__ __forceinline__ void add_windows(const u64* windows, size_t at, T* values, int numbers) {
    const T* of_rank[RANKS];
#pragma unroll
    for (int r = 0; r < RANKS; r++) of_rank[r] = reinterpret_cast<const T*>(windows[r] + at);
    for (int i = int(threadIdx.x) * N; i < numbers; i += int(blockDim.x) * N) {
        Run<N> of[RANKS], sum;
#pragma unroll
        for (int r = 0; r < RANKS; r++) of[r] = load<N>(of_rank[r] + i);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float parts[RANKS];
#pragma unroll
            for (int r = 0; r < RANKS; r++) parts[r] = of[r].v[j];
            sum.v[j] = tree_sum<0, RANKS>(parts);
        }
        if (i + N <= numbers) {
            store(values + i, sum);
            continue;
        }
#pragma unroll
        for (int j = 0; j < N; j++)
            if (i + j < numbers) values[i + j] = from_float<T>(sum.v[j]);
    }
}

template <class T, int N>
__device__ __forceinline__ void add_windows(const u64* windows, int ranks, size_t at, T* values, int numbers) {
    switch (ranks) {
        case 2: return add_windows<2, T, N>(windows, at, values, numbers);
        case 3: return add_windows<3, T, N>(windows, at, values, numbers);
        case 4: return add_windows<4, T, N>(windows, at, values, numbers);
        case 5: return add_windows<5, T, N>(windows, at, values, numbers);
        case 6: return add_windows<6, T, N>(windows, at, values, numbers);
        case 7: return add_windows<7, T, N>(windows, at, values, numbers);
        case 8: return add_windows<8, T, N>(windows, at, values, numbers);
    }
}

/// Tells the others of a call, and waits until each has told of it. Whether all have; the threads of a block agree on it.
__device__ __forceinline__ bool meet_peers(PeerWindow* own, const u64* windows, int rank, int ranks, u64 call, u64* stop, u64 limit) {
    __shared__ u64 missing;
    if (threadIdx.x == 0) missing = 0;
    // All numbers of the block lie in its window.
    __syncthreads();
    bool has_peer = int(threadIdx.x) < ranks && int(threadIdx.x) != rank;
    u64* theirs = nullptr;
    if (has_peer) {
        theirs = &reinterpret_cast<PeerWindow*>(windows[threadIdx.x])->told[blockIdx.x][rank];
        store_release(theirs, call);
        if (u64 why = wait_for_peer(own->told[blockIdx.x], int(threadIdx.x), ranks, call, stop, limit)) missing = why;
    }
    __syncthreads();
    if (!missing) return true;
    if (has_peer) store_release(theirs, call | PEER_LEFT);
    if (threadIdx.x == 0) {
        own->is_over = 1;
        store_release(stop, missing);
    }
    return false;
}

template <class T, int N>
__device__ __forceinline__ void sum_over_ranks(T* values, int n, PeerWindow* own, int rank, int ranks, u64* stop, u64 limit) {
    wait_for_kernels_ahead();
    // All that is to be known of the window comes at once: a trip to memory is a good part of such a sum.
    __shared__ u64 next, windows[PEERS];
    if (threadIdx.x < unsigned(ranks)) windows[threadIdx.x] = own->of_rank[threadIdx.x];
    if (threadIdx.x == 0) {
        u64 over = own->is_over, last = own->calls[blockIdx.x];
        next = over ? 0 : last + 1;
    }
    __syncthreads();
    u64 call = next;
    if (!call) return;

    // Runs of 16 bytes, as many to each block; the last may be a part of one.
    int runs = ceil_div(n, N), each = ceil_div(runs, int(gridDim.x));
    int first = int(blockIdx.x) * each, count = min(each, runs - first);
    size_t at = PEER_NUMBERS + (size_t(call % 2) * PEER_BLOCKS + blockIdx.x) * PEER_BYTES;
    T* buffer = reinterpret_cast<T*>(reinterpret_cast<char*>(own) + at);
    values += size_t(first) * N;
    int numbers = min(count * N, n - first * N);
    for (int i = int(threadIdx.x) * N; i < numbers; i += int(blockDim.x) * N) {
        if (i + N <= numbers) {
            u32 words[4];
            load_words(values + i, words);
            store_words(buffer + i, words);
        } else {
            for (int j = i; j < numbers; j++) buffer[j] = values[j];
        }
    }
    if (!meet_peers(own, windows, rank, ranks, call, stop, limit)) return;
    if (threadIdx.x == 0) own->calls[blockIdx.x] = call;
    add_windows<T, N>(windows, ranks, at, values, numbers);
}

/// Replaces n `values`, from a multiple of 16 bytes on, by their sum over ranks; `own` is this rank's window. Waits for a peer until
/// `stop` is not 0 or `limit` nanoseconds are over, which it then tells there, and the values are anything.
/// Grid g <= PEER_BLOCKS, with PEER_BYTES of room for a block's ceil(bytes / 16 / g) x 16 bytes; 256 threads. All ranks take the same.
extern "C" __global__ void __launch_bounds__(256) sum_over_ranks_w(bf16* values, int n, PeerWindow* own, int rank, int ranks, u64* stop, u64 limit) {
    sum_over_ranks<bf16, 8>(values, n, own, rank, ranks, stop, limit);
}

extern "C" __global__ void __launch_bounds__(256) sum_over_ranks_f(float* values, int n, PeerWindow* own, int rank, int ranks, u64* stop, u64 limit) {
    sum_over_ranks<float, 4>(values, n, own, rank, ranks, stop, limit);
}
