// What a caller describes: the product, the matrices, and what an algorithm may use.
#pragma once

#include "types.h"

/// Attributes are set by number, each of one size.
struct Attribute {
    int number;
    size_t offset, bytes;
};

struct MatmulDesc {
    cublasComputeType_t compute;
    cudaDataType scale;
    cublasLtPointerMode_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
    cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N, transpose_c = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void* bias = nullptr;
    /// Factors of 8-bit matrices: one number, on the device.
    const float *scale_a = nullptr, *scale_b = nullptr;
    int32_t scale_mode_a = 0, scale_mode_b = 0;
    int8_t fast_accumulation = 0;
    int32_t multiprocessors = 0;
};

struct MatrixLayout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
    cublasLtOrder_t order = CUBLASLT_ORDER_COL;
    int32_t batch = 1;
    int64_t batch_stride = 0;

    size_t index(uint64_t row, uint64_t col) const {
        return order == CUBLASLT_ORDER_COL ? col * uint64_t(ld) + row : row * uint64_t(ld) + col;
    }
};

struct MatmulPreference {
    int32_t search = 0;
    uint64_t max_workspace = 0;
    uint32_t alignment_a = 256, alignment_b = 256, alignment_c = 256, alignment_d = 256;
};
