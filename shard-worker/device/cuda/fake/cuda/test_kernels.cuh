// Kernels for the tests of the fake itself, so that they depend on no kernel of the model.

/// out[i] = x[i] * by
extern "C" __global__ void fake_scale(const float* x, float* out, int n, float by) {
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[i] = x[i] * by;
}

struct FakePair {
    int first;
    double second;
};

/// out[0] = pair.first + pair.second, for arguments that are structs.
extern "C" __global__ void fake_pair(FakePair pair, double* out) { out[0] = pair.first + pair.second; }

/// out[block] = sum of the block's threads' numbers, through dynamic shared memory and a barrier.
extern "C" __global__ void fake_block_sum(const int* x, int* out) {
    DYNAMIC_SHARED(int, shared);
    shared[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    if (threadIdx.x) return;
    int sum = 0;
    for (unsigned i = 0; i < blockDim.x; i++) sum += shared[i];
    out[blockIdx.x] = sum;
}

/// out[i] = x[i]; where `all` is 0, only the last block waits for the kernels ahead.
extern "C" __global__ void fake_copy_behind(const float* x, float* out, int all) {
    if (all || blockIdx.x + 1 == gridDim.x) wait_for_kernels_ahead();
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    out[i] = x[i];
}

/// Writes one number beyond the end of `out`.
extern "C" __global__ void fake_overrun(int* out, int n) { out[n] = 1; }
