// The arithmetic: D = alpha * op(A) * op(B) + beta * C, with sums in f32 whose order is the algorithm's.
#pragma once

#include "descriptors.h"

struct Product {
    MatmulDesc desc;
    MatrixLayout a, b, c, d;
    const void *a_data = nullptr, *b_data = nullptr, *c_data = nullptr;
    void* d_data = nullptr;
    /// In pointer mode "device" they are read when the product runs.
    const float *alpha_device = nullptr, *beta_device = nullptr;
    float alpha = 1, beta = 0;
    /// K is cut into so many parts, whose sums are added in order.
    unsigned splits = 1;
    void* workspace = nullptr;
    size_t workspace_bytes = 0;

    uint64_t m() const { return d.rows; }
    uint64_t n() const { return d.cols; }
    uint64_t k() const { return desc.transpose_a == CUBLAS_OP_N ? a.cols : a.rows; }

    /// Whether shapes and types fit each other, and are among those that work here.
    cublasStatus_t check() const;
    /// Computes it; the result is a CUresult.
    int run() const;
};
