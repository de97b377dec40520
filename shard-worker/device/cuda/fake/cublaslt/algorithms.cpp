#include "algorithms.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr uint64_t MAGIC = 0x746c656b61664c62;
constexpr Algorithm ALGORITHMS[] = {{MAGIC, 1, 0}, {MAGIC, 2, 1 << 16}, {MAGIC, 4, 1 << 18}};
constexpr unsigned COUNT = 3;
/// What is narrower than this gets more parts of K first, so that a batch's size changes the choice, as it does on a
/// GPU: whoever wants the same bits for every batch has to fix the algorithm.
constexpr uint64_t NARROW = 64;

cublasLtMatmulHeuristicResult_t result_of(const Algorithm& algorithm) {
    cublasLtMatmulHeuristicResult_t result{};
    memcpy(result.algo.data, &algorithm, sizeof algorithm);
    result.workspaceSize = algorithm.workspace_bytes;
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1;
    return result;
}

bool all_there(const void* desc, const MatrixLayout* a, const MatrixLayout* b, const MatrixLayout* c, const MatrixLayout* d) {
    return desc && a && b && c && d;
}

}  // namespace

const Algorithm* algorithm_of(const cublasLtMatmulAlgo_t* algo) {
    for (const Algorithm& algorithm : ALGORITHMS)
        if (!memcmp(algo->data, &algorithm, sizeof algorithm)) return &algorithm;
    return nullptr;
}

const Algorithm* choice(const Product& product, unsigned index) {
    if (index >= COUNT) return nullptr;
    bool is_narrow = std::min(product.m(), product.n()) < NARROW;
    return &ALGORITHMS[is_narrow ? COUNT - 1 - index : index];
}

API cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                                  cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                  cublasLtMatmulPreference_t preference, int requested,
                                                  cublasLtMatmulHeuristicResult_t* results, int* count) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!all_there(desc, a, b, c, d) || !preference || requested <= 0 || !results || !count) return CUBLAS_STATUS_INVALID_VALUE;
    Product product{.desc = *desc, .a = *a, .b = *b, .c = *c, .d = *d};
    *count = 0;
    if (cublasStatus_t status = product.check()) return status;
    for (unsigned i = 0; const Algorithm* algorithm = choice(product, i); i++)
        if (algorithm->workspace_bytes <= preference->max_workspace && *count < requested)
            results[(*count)++] = result_of(*algorithm);
    return *count ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

API cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                           cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                           const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!all_there(desc, a, b, c, d) || !algo || !result) return CUBLAS_STATUS_INVALID_VALUE;
    const Algorithm* algorithm = algorithm_of(algo);
    if (!algorithm) return CUBLAS_STATUS_INVALID_VALUE;
    Product product{.desc = *desc, .a = *a, .b = *b, .c = *c, .d = *d};
    *result = result_of(*algorithm);
    return result->state = product.check();
}

API cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo, int attribute, void* value,
                                                        size_t bytes, size_t* written) {
    constexpr int ID = 0, SPLITK_NUM = 2;
    const Algorithm* algorithm = algo ? algorithm_of(algo) : nullptr;
    if (!algorithm || !value || bytes < sizeof(int32_t)) return CUBLAS_STATUS_INVALID_VALUE;
    if (attribute != ID && attribute != SPLITK_NUM) return CUBLAS_STATUS_NOT_SUPPORTED;
    int32_t number = attribute == ID ? int32_t(algorithm - ALGORITHMS) : int32_t(algorithm->splits);
    memcpy(value, &number, sizeof number);
    if (written) *written = sizeof number;
    return CUBLAS_STATUS_SUCCESS;
}
