// The call itself, and the library's handle and words.
#include "../fake_enqueue.h"
#include "algorithms.h"

namespace {

int run(void* product) { return static_cast<Product*>(product)->run(); }
void drop(void* product) { delete static_cast<Product*>(product); }

/// Takes alpha and beta as the pointer mode says.
cublasStatus_t read_factors(Product& product, const void* alpha, const void* beta) {
    if (!alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    auto alpha_at = static_cast<const float*>(alpha), beta_at = static_cast<const float*>(beta);
    switch (product.desc.pointer_mode) {
        case CUBLASLT_POINTER_MODE_HOST: product.alpha = *alpha_at, product.beta = *beta_at; return CUBLAS_STATUS_SUCCESS;
        case CUBLASLT_POINTER_MODE_DEVICE:
            product.alpha_device = alpha_at, product.beta_device = beta_at;
            return CUBLAS_STATUS_SUCCESS;
        default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

}  // namespace

API cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    *handle = reinterpret_cast<cublasLtHandle_t>(new char);
    return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete reinterpret_cast<char*>(handle);
    return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                                  cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                                  const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                                  cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace,
                                  size_t workspace_bytes, void* stream) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!desc || !a || !a_layout || !b || !b_layout || !c_layout || !d || !d_layout) return CUBLAS_STATUS_INVALID_VALUE;
    Product product{.desc = *desc,
                    .a = *a_layout,
                    .b = *b_layout,
                    .c = *c_layout,
                    .d = *d_layout,
                    .a_data = a,
                    .b_data = b,
                    .c_data = c,
                    .d_data = d};
    if (cublasStatus_t status = product.check()) return status;
    if (cublasStatus_t status = read_factors(product, alpha, beta)) return status;
    const Algorithm* algorithm = algo ? algorithm_of(algo) : choice(product, 0);
    // Without an algorithm the library takes the best that fits the workspace.
    for (unsigned i = 1; !algo && algorithm->workspace_bytes > workspace_bytes; i++) algorithm = choice(product, i);
    if (!algorithm || algorithm->workspace_bytes > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    product.splits = unsigned(algorithm->splits);
    product.workspace = workspace, product.workspace_bytes = algorithm->workspace_bytes;
    int error = fakeEnqueue(stream, "cublasLtMatmul", run, drop, new Product(product), 0);
    return error ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

API size_t cublasLtGetVersion() { return 130000; }
API size_t cublasLtGetCudartVersion() { return 13000; }

API const char* cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "unknown";
}

API const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

/// Nothing is logged.
API cublasStatus_t cublasLtLoggerSetLevel(int) { return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasLtLoggerOpenFile(const char*) { return CUBLAS_STATUS_SUCCESS; }
