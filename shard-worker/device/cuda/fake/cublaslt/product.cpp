#include "product.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "../fake_enqueue.h"
#include "numbers.h"

namespace {

constexpr int CUDA_ERROR_ILLEGAL_ADDRESS = 700;
constexpr int SCALE_IS_ONE_NUMBER = 0;

size_t bytes_of(cudaDataType type) { return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF ? 2 : 1; }

float load(const void* data, cudaDataType type, size_t index) {
    if (type == CUDA_R_32F) return static_cast<const float*>(data)[index];
    if (type == CUDA_R_16BF) return bf16_to_float(static_cast<const uint16_t*>(data)[index]);
    return e4m3_to_float(static_cast<const uint8_t*>(data)[index]);
}

void store(void* data, cudaDataType type, size_t index, float value) {
    if (type == CUDA_R_32F)
        static_cast<float*>(data)[index] = value;
    else
        static_cast<uint16_t*>(data)[index] = float_to_bf16(value);
}

/// Whether the matrix lies in memory of a device, all its batches.
bool is_accessible(const void* data, const MatrixLayout& layout) {
    size_t last = layout.index(layout.rows - 1, layout.cols - 1) + size_t(layout.batch - 1) * size_t(layout.batch_stride);
    return fakeAccessible(data, (last + 1) * bytes_of(layout.type));
}

const void* batch(const void* data, const MatrixLayout& layout, int i) {
    return static_cast<const char*>(data) + size_t(i) * size_t(layout.batch_stride) * bytes_of(layout.type);
}

/// A matrix as f32 whose rows are the vectors that dot products need, K contiguous.
std::vector<float> unpack(const void* data, const MatrixLayout& layout, uint64_t vectors, uint64_t k, bool vectors_are_rows) {
    std::vector<float> out(vectors * k);
    for (uint64_t v = 0; v < vectors; v++)
        for (uint64_t i = 0; i < k; i++)
            out[v * k + i] = load(data, layout.type, vectors_are_rows ? layout.index(v, i) : layout.index(i, v));
    return out;
}

/// Eight sums side by side, added at the end: the same order for every element, whatever the shape.
float dot(const float* x, const float* y, uint64_t count) {
    constexpr unsigned LANES = 8;
    float sums[LANES] = {};
    uint64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (unsigned lane = 0; lane < LANES; lane++) sums[lane] += x[i + lane] * y[i + lane];
    for (; i < count; i++) sums[i % LANES] += x[i] * y[i];
    float sum = 0;
    for (float lane : sums) sum += lane;
    return sum;
}

float split_dot(const float* x, const float* y, uint64_t k, unsigned splits) {
    float sum = 0;
    for (unsigned s = 0; s < splits; s++) {
        uint64_t begin = k * s / splits, end = k * (s + 1) / splits;
        sum += dot(x + begin, y + begin, end - begin);
    }
    return sum;
}

bool is_bf16(const Product& p) { return p.a.type == CUDA_R_16BF && p.b.type == CUDA_R_16BF; }

/// Hopper multiplies 8-bit matrices in one layout alone: K contiguous in both.
bool is_e4m3(const Product& p) {
    return p.a.type == CUDA_R_8F_E4M3 && p.b.type == CUDA_R_8F_E4M3 && p.desc.transpose_a == CUBLAS_OP_T &&
           p.desc.transpose_b == CUBLAS_OP_N && p.a.ld % 16 == 0 && p.b.ld % 16 == 0;
}

bool is_layout(const MatrixLayout& layout) {
    uint64_t least = layout.order == CUBLASLT_ORDER_COL ? layout.rows : layout.cols;
    return layout.rows && layout.cols && layout.batch > 0 && layout.ld >= int64_t(least);
}

}  // namespace

cublasStatus_t Product::check() const {
    bool b_is_n = desc.transpose_b == CUBLAS_OP_N;
    if (!is_layout(a) || !is_layout(b) || !is_layout(c) || !is_layout(d)) return CUBLAS_STATUS_INVALID_VALUE;
    if ((desc.transpose_a == CUBLAS_OP_N ? a.rows : a.cols) != m()) return CUBLAS_STATUS_INVALID_VALUE;
    if ((b_is_n ? b.cols : b.rows) != n() || (b_is_n ? b.rows : b.cols) != k()) return CUBLAS_STATUS_INVALID_VALUE;
    if (c.rows != d.rows || c.cols != d.cols || c.type != d.type) return CUBLAS_STATUS_INVALID_VALUE;
    if (b.batch != a.batch || c.batch != a.batch || d.batch != a.batch) return CUBLAS_STATUS_INVALID_VALUE;
    if (desc.compute != CUBLAS_COMPUTE_32F || desc.scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (desc.transpose_c != CUBLAS_OP_N) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!is_bf16(*this) && !is_e4m3(*this)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (d.type != CUDA_R_16BF && d.type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (desc.epilogue != CUBLASLT_EPILOGUE_DEFAULT && desc.epilogue != CUBLASLT_EPILOGUE_BIAS) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (desc.scale_mode_a != SCALE_IS_ONE_NUMBER || desc.scale_mode_b != SCALE_IS_ONE_NUMBER) return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

int Product::run() const {
    float alpha = alpha_device ? *alpha_device : this->alpha, beta = beta_device ? *beta_device : this->beta;
    if (!is_accessible(a_data, a) || !is_accessible(b_data, b) || !is_accessible(d_data, d)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (beta != 0 && !is_accessible(c_data, c)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (workspace_bytes && !fakeAccessible(workspace, workspace_bytes)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    // Whoever keeps something else in the workspace is to notice.
    memset(workspace, 0xff, workspace_bytes);
    if (desc.scale_a) alpha *= *desc.scale_a;
    if (desc.scale_b) alpha *= *desc.scale_b;
    bool with_bias = desc.epilogue == CUBLASLT_EPILOGUE_BIAS && desc.bias;
    for (int i = 0; i < d.batch; i++) {
        auto rows = unpack(batch(a_data, a, i), a, m(), k(), desc.transpose_a == CUBLAS_OP_N);
        auto cols = unpack(batch(b_data, b, i), b, n(), k(), desc.transpose_b != CUBLAS_OP_N);
        void* out = const_cast<void*>(batch(d_data, d, i));
        for (uint64_t col = 0; col < n(); col++)
            for (uint64_t row = 0; row < m(); row++) {
                float value = alpha * split_dot(&rows[row * k()], &cols[col * k()], k(), splits);
                if (beta != 0) value += beta * load(batch(c_data, c, i), c.type, c.index(row, col));
                if (with_bias) value += load(desc.bias, d.type, row);
                store(out, d.type, d.index(row, col), value);
            }
    }
    return 0;
}
