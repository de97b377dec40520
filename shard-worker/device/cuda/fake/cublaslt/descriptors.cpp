#include "descriptors.h"

#include <cstring>

namespace {

/// A field of a description, by its number among cuBLASLt's attributes.
#define FIELD(type, number, field) {number, offsetof(type, field), sizeof(type::field)}

constexpr Attribute MATMUL[] = {
    FIELD(MatmulDesc, 0, compute),       FIELD(MatmulDesc, 1, scale),         FIELD(MatmulDesc, 2, pointer_mode),
    FIELD(MatmulDesc, 3, transpose_a),   FIELD(MatmulDesc, 4, transpose_b),   FIELD(MatmulDesc, 5, transpose_c),
    FIELD(MatmulDesc, 7, epilogue),      FIELD(MatmulDesc, 8, bias),          FIELD(MatmulDesc, 15, multiprocessors),
    FIELD(MatmulDesc, 17, scale_a),      FIELD(MatmulDesc, 18, scale_b),      FIELD(MatmulDesc, 25, fast_accumulation),
    FIELD(MatmulDesc, 31, scale_mode_a), FIELD(MatmulDesc, 32, scale_mode_b),
};
constexpr Attribute LAYOUT[] = {
    FIELD(MatrixLayout, 0, type),         FIELD(MatrixLayout, 1, order), FIELD(MatrixLayout, 2, rows),
    FIELD(MatrixLayout, 3, cols),         FIELD(MatrixLayout, 4, ld),    FIELD(MatrixLayout, 5, batch),
    FIELD(MatrixLayout, 6, batch_stride),
};
constexpr Attribute PREFERENCE[] = {
    FIELD(MatmulPreference, 0, search),      FIELD(MatmulPreference, 1, max_workspace), FIELD(MatmulPreference, 5, alignment_a),
    FIELD(MatmulPreference, 6, alignment_b), FIELD(MatmulPreference, 7, alignment_c),   FIELD(MatmulPreference, 8, alignment_d),
};
#undef FIELD

template <size_t N>
const Attribute* find(const Attribute (&attributes)[N], int number) {
    for (const Attribute& attribute : attributes)
        if (attribute.number == number) return &attribute;
    return nullptr;
}

template <size_t N>
cublasStatus_t set(const Attribute (&attributes)[N], void* object, int number, const void* value, size_t bytes) {
    const Attribute* attribute = find(attributes, number);
    if (!attribute) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!object || !value || bytes != attribute->bytes) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(static_cast<char*>(object) + attribute->offset, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

template <size_t N>
cublasStatus_t get(const Attribute (&attributes)[N], const void* object, int number, void* value, size_t bytes, size_t* written) {
    const Attribute* attribute = find(attributes, number);
    if (!attribute) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (written) *written = attribute->bytes;
    // A size of 0 asks for the size alone.
    if (!bytes && written) return CUBLAS_STATUS_SUCCESS;
    if (!object || !value || bytes < attribute->bytes) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, static_cast<const char*>(object) + attribute->offset, attribute->bytes);
    return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t destroy(T* object) {
    delete object;
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

API cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType scale) {
    if (!desc) return CUBLAS_STATUS_INVALID_VALUE;
    *desc = new MatmulDesc{compute, scale};
    return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { return destroy(desc); }

API cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, int attribute, const void* value, size_t bytes) {
    return set(MATMUL, desc, attribute, value, bytes);
}

API cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t desc, int attribute, void* value, size_t bytes,
                                                  size_t* written) {
    return get(MATMUL, desc, attribute, value, bytes, written);
}

API cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t cols,
                                              int64_t ld) {
    if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
    *layout = new MatrixLayout{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(layout); }

API cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, int attribute, const void* value,
                                                    size_t bytes) {
    return set(LAYOUT, layout, attribute, value, bytes);
}

API cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t layout, int attribute, void* value, size_t bytes,
                                                    size_t* written) {
    return get(LAYOUT, layout, attribute, value, bytes, written);
}

API cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
    *preference = new MatmulPreference;
    return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return destroy(preference); }

API cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, int attribute, const void* value,
                                                        size_t bytes) {
    return set(PREFERENCE, preference, attribute, value, bytes);
}

API cublasStatus_t cublasLtMatmulPreferenceGetAttribute(cublasLtMatmulPreference_t preference, int attribute, void* value,
                                                        size_t bytes, size_t* written) {
    return get(PREFERENCE, preference, attribute, value, bytes, written);
}
