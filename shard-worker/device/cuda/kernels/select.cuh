// Selection in a row of logits by a block of LOGIT_THREADS, without sorting.
//
// Tokens are ordered by falling logit, by id among equals. Every filter keeps a head of that order, so what is kept is a
// place in it: a `Cut`. A place is found where a sum over the order passes a target; sums are of integers, so that the
// order of adding leaves no trace. The first look at the row puts logits into bins of equal width, further ones go
// by the bits of the logits in the bin that was hit, 2048 ways each, until one logit is left.

/// Keeps tokens of higher keys, and of this key those up to `id`.
struct Cut {
    u32 key;
    int id;
    __device__ bool keeps(u32 other_key, int other_id) const { return other_key > key || (other_key == key && other_id <= id); }
};

constexpr int LAST_ID = 0x7fffffff;
constexpr int BINS = 2 * LOGIT_THREADS;
constexpr int BIN_BITS = 11;

/// Shared memory of a selection.
struct Scratch {
    /// Sums in halves: a device adds 32 bits at a time to shared memory, and loops for 64.
    u32 low[BINS], high[BINS];
    u64 of_warps[LOGIT_WARPS];
    u64 found_before, found_sum;
    int found;

    __device__ void add(int bin, u64 x) {
        u32 old = atomicAdd(&low[bin], u32(x));
        u32 carried = u32(x >> 32) + (old + u32(x) < old ? 1 : 0);
        if (carried) atomicAdd(&high[bin], carried);
    }
    __device__ u64 sum(int bin) const { return u64(high[bin]) << 32 | low[bin]; }
};

struct Scan {
    u64 before, total;
};

/// The sum of the threads before this one, and of all.
__device__ __forceinline__ Scan block_scan(u64 x, Scratch& scratch) {
    u64 sum = x;
    for (int by = 1; by < WARP_LANES; by *= 2) {
        u64 other = __shfl_up_sync(ALL_LANES, sum, by);
        if (lane_id() >= by) sum += other;
    }
    if (lane_id() == WARP_LANES - 1) scratch.of_warps[warp_id()] = sum;
    __syncthreads();
    Scan scan = {sum - x, 0};
    for (int w = 0; w < LOGIT_WARPS; w++) {
        if (w < warp_id()) scan.before += scratch.of_warps[w];
        scan.total += scratch.of_warps[w];
    }
    __syncthreads();
    return scan;
}

/// The lowest key of `[low, high]` for which `holds`, which does so from some key on, and at `high`. Every warp searches
/// for itself, 32 places at a time.
template <class Predicate>
__device__ __forceinline__ u32 lowest_key(u32 low, u32 high, Predicate holds) {
    while (low < high) {
        u32 step = (high - low - 1) / WARP_LANES + 1;
        u64 place = low + u64(step) * lane_id();
        u32 votes = __ballot_sync(ALL_LANES, place >= high || holds(u32(place)));
        int first = votes ? __ffs(votes) - 1 : WARP_LANES;
        u64 end = low + u64(step) * first;
        if (first < WARP_LANES && end < high) high = u32(end);
        if (first > 0) low += step * (first - 1) + 1;
    }
    return high;
}

/// Sums measures of the kept tokens with keys of `[low, high]` by bin.
template <class Measure, class BinOf>
__device__ __forceinline__ void fill_bins(const LogitRow& row, Cut cut, u32 low, u32 high, Measure measure, BinOf bin_of, Scratch& scratch) {
    for (int i = int(threadIdx.x); i < BINS; i += LOGIT_THREADS) scratch.low[i] = scratch.high[i] = 0;
    __syncthreads();
    row.for_ids([&](float logit, int id) {
        u32 key = logit_key(logit);
        if (key >= low && key <= high && cut.keeps(key, id)) scratch.add(bin_of(key), measure(key));
    });
    __syncthreads();
}

/// Of bins in order, with the sum `before` them: the one in which the sum reaches `wanted`. `scan` is of this thread's two.
__device__ __forceinline__ int find_bin(u64& before, u64 wanted, Scan scan, Scratch& scratch) {
    u64 sum = before + scan.before;
    for (int bin = 2 * int(threadIdx.x); bin < 2 * int(threadIdx.x) + 2; bin++) {
        u64 more = scratch.sum(bin);
        if (sum < wanted && sum + more >= wanted) scratch.found = bin, scratch.found_before = sum, scratch.found_sum = more;
        sum += more;
    }
    __syncthreads();
    before = scratch.found_before;
    return scratch.found;
}

__device__ __forceinline__ Scan scan_bins(Scratch& scratch) {
    return block_scan(scratch.sum(2 * int(threadIdx.x)) + scratch.sum(2 * int(threadIdx.x) + 1), scratch);
}

/// The first id, ids rising, at which the sum of `measure(key, id)` passes `target(sum of all)`.
template <class Measure, class Target>
__device__ __forceinline__ int locate(const LogitRow& row, Measure measure, Target target, Scratch& scratch) {
    // Each warp sums a range of its own; then the block looks into the range that was hit.
    const int line = 4 * WARP_LANES;
    int range = ceil_div(ceil_div(row.vocab, LOGIT_WARPS), line) * line;
    auto measures = [&](int id, int end, u64(&out)[4]) {
        FourLogits four = row.four(id);
        u64 sum = 0;
        for (int i = 0; i < 4; i++) sum += out[i] = id + i < end ? measure(logit_key(four.v[i]), id + i) : 0;
        return sum;
    };
    u64 sum = 0, each[4];
    for (int id = warp_id() * range + lane_id() * 4; id < min(row.vocab, (warp_id() + 1) * range); id += line)
        sum += measures(id, row.vocab, each);
    sum = warp_sum(sum);
    // One lane speaks for the warp in a scan over threads.
    Scan scan = block_scan(lane_id() == 0 ? sum : 0, scratch);
    u64 passed = target(scan.total);
    if (lane_id() == 0 && scan.before <= passed && passed < scan.before + sum) scratch.found = warp_id(), scratch.found_before = scan.before;
    __syncthreads();
    int begin = scratch.found * range, end = min(row.vocab, begin + range);
    u64 before = scratch.found_before;
    for (int first = begin; first < end && before <= passed; first += 4 * LOGIT_THREADS) {
        int id = first + int(threadIdx.x) * 4;
        u64 own = id < end ? measures(id, end, each) : 0;
        scan = block_scan(own, scratch);
        u64 at = before + scan.before;
        if (at <= passed && passed < at + own) {
            // The last id that the sum does not pass before.
            for (int i = 0; i < 4; at += each[i++])
                if (at <= passed) scratch.found = id + i;
        }
        before += scan.total;
    }
    __syncthreads();
    return scratch.found;
}

/// The shortest head of the kept tokens whose measures, which are positive, reach `target(sum of all kept)`. `width` is
/// how far below the best logit the first bins reach; the last of them takes all beyond.
template <class Measure, class Target>
__device__ __forceinline__ Cut narrow_cut(const LogitRow& row, Best best, Cut cut, float width, Measure measure, Target target, Scratch& scratch) {
    u32 low = cut.key, high = best.key;
    // The best logit is in bin 0 whatever the width: 0 times a finite scale.
    float top = best.logit(), scale = fminf((BINS - 1) / width, 3.4e38f);
    auto by_distance = [&](u32 key) { return int(fminf((top - key_logit(key)) * scale, float(BINS - 1))); };
    fill_bins(row, cut, low, high, measure, by_distance, scratch);
    Scan scan = scan_bins(scratch);
    u64 before = 0, wanted = target(scan.total);
    if (wanted >= scan.total) return cut;
    int bin = find_bin(before, wanted, scan, scratch);
    u32 last = high;
    if (bin > 0) high = lowest_key(low, last, [&](u32 key) { return by_distance(key) < bin; }) - 1;
    low = lowest_key(low, high, [&](u32 key) { return by_distance(key) <= bin; });
    while (low < high) {
        int bits = 32 - __clz(high - low), shift = bits > BIN_BITS ? bits - BIN_BITS : 0;
        auto by_bits = [&](u32 key) { return int((high - key) >> shift); };
        fill_bins(row, cut, low, high, measure, by_bits, scratch);
        bin = find_bin(before, wanted, scan_bins(scratch), scratch);
        high -= u32(bin) << shift;
        u32 spread = (1u << shift) - 1;
        if (high - low > spread) low = high - spread;
    }
    // All tokens of this key measure the same: as many of them as are needed, the lowest ids first.
    u64 one = measure(low), needed = (wanted - before + one - 1) / one;
    Cut narrower = {low, low == cut.key ? cut.id : LAST_ID};
    if (needed * one < scratch.found_sum) {
        auto equal = [&](u32 key, int id) { return u64(key == low && cut.keeps(key, id)); };
        narrower.id = locate(row, equal, [&](u64) { return needed - 1; }, scratch);
    }
    return narrower;
}
