// Products of cuBLASLt against f64.
#include <cmath>
#include <cstring>

#include "../cublaslt/numbers.h"
#include "facts.h"

using namespace test;

namespace {

/// A number of many magnitudes, so that the order of a sum shows in its last bits.
float number(unsigned i) { return bf16_to_float(float_to_bf16(std::sin(float(i)) / float(1 + i % 7))); }

/// y[m, n] = x[m, k] w[n, k]^T of row-major matrices, which cuBLAS sees as the column-major y^T = w^T(T) x^T.
struct Product {
    int m, n, k;
    cudaDataType in = CUDA_R_16BF, out = CUDA_R_32F;
    Life& life;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w_layout, x_layout, y_layout;
    cublasLtMatmulPreference_t preference;
    CUdeviceptr w, x, y, workspace;
    std::vector<float> w_values, x_values;

    Product(Life& life, int m, int n, int k, cudaDataType in = CUDA_R_16BF, cudaDataType out = CUDA_R_32F)
        : m(m), n(n), k(k), in(in), out(out), life(life) {
        OK(cublasLtCreate(&handle));
        OK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        cublasOperation_t transposed = CUBLAS_OP_T;
        OK(cublasLtMatmulDescSetAttribute(desc, 3, &transposed, sizeof transposed));
        OK(cublasLtMatrixLayoutCreate(&w_layout, in, uint64_t(k), uint64_t(n), k));
        OK(cublasLtMatrixLayoutCreate(&x_layout, in, uint64_t(k), uint64_t(m), k));
        OK(cublasLtMatrixLayoutCreate(&y_layout, out, uint64_t(n), uint64_t(m), n));
        OK(cublasLtMatmulPreferenceCreate(&preference));
        w = fill(w_values, size_t(n) * k, 1), x = fill(x_values, size_t(m) * k, 2);
        y = life.memory(size_t(m) * n * 4);
        workspace = life.memory(1 << 20);
    }

    CUdeviceptr fill(std::vector<float>& values, size_t count, unsigned seed) {
        std::vector<uint16_t> wide;
        std::vector<uint8_t> narrow;
        for (size_t i = 0; i < count; i++) {
            narrow.push_back(uint8_t((i * 37 + seed) % 120 | (i % 2 ? 0x80 : 0)));
            wide.push_back(float_to_bf16(number(unsigned(i) * 3 + seed)));
            values.push_back(in == CUDA_R_16BF ? bf16_to_float(wide.back()) : e4m3_to_float(narrow.back()));
        }
        return in == CUDA_R_16BF ? life.upload(wide) : life.upload(narrow);
    }

    std::vector<cublasLtMatmulHeuristicResult_t> algorithms(uint64_t workspace_bytes = 1 << 20) {
        OK(cublasLtMatmulPreferenceSetAttribute(preference, 1, &workspace_bytes, sizeof workspace_bytes));
        std::vector<cublasLtMatmulHeuristicResult_t> results(8);
        int count;
        OK(cublasLtMatmulAlgoGetHeuristic(handle, desc, w_layout, x_layout, y_layout, y_layout, preference, 8, results.data(),
                                          &count));
        results.resize(size_t(count));
        return results;
    }

    cublasStatus_t run(const cublasLtMatmulAlgo_t* algorithm = nullptr, float alpha = 1, float beta = 0, void* stream = nullptr) {
        return cublasLtMatmul(handle, desc, &alpha, pointer(w), w_layout, pointer(x), x_layout, &beta, pointer(y), y_layout,
                              pointer(y), y_layout, algorithm, pointer(workspace), 1 << 20, stream);
    }

    double want(int row, int col) const {
        double sum = 0;
        for (int i = 0; i < k; i++) sum += double(x_values[size_t(row) * k + i]) * w_values[size_t(col) * k + i];
        return sum;
    }

    std::vector<float> result() {
        if (out == CUDA_R_32F) return life.download<float>(y, size_t(m) * n);
        std::vector<float> values;
        for (uint16_t bits : life.download<uint16_t>(y, size_t(m) * n)) values.push_back(bf16_to_float(bits));
        return values;
    }

    bool is_right(double tolerance, double scale = 1, double offset = 0) {
        auto values = result();
        for (int row = 0; row < m; row++)
            for (int col = 0; col < n; col++) {
                double expected = want(row, col) * scale + offset;
                if (!(std::abs(values[size_t(row) * n + col] - expected) <= tolerance * (1 + std::abs(expected)))) return false;
            }
        return true;
    }

    static void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }
};

void values() {
    fact("bf16 products are right, with results in f32 and in bf16", [] {
        Life life;
        for (auto [m, n, k] : {std::tuple(1, 8, 16), std::tuple(5, 24, 100), std::tuple(70, 64, 200)})
            for (auto out : {CUDA_R_32F, CUDA_R_16BF}) {
                Product product(life, m, n, k, CUDA_R_16BF, out);
                for (auto& result : product.algorithms()) {
                    OK(product.run(&result.algo));
                    THAT(product.is_right(out == CUDA_R_32F ? 1e-5 : 5e-3));
                }
            }
    });
    fact("alpha and beta weigh the product and what was there", [] {
        Life life;
        Product product(life, 3, 8, 32);
        std::vector<float> before(24, 4);
        OK(cuMemcpyHtoD_v2(product.y, before.data(), 96));
        OK(product.run(nullptr, 2, 0.5));
        THAT(product.is_right(1e-5, 2, 2));
    });
    fact("memory that was never written does not matter when beta is 0", [] {
        Life life;
        Product product(life, 3, 8, 32);
        OK(product.run());
        THAT(product.is_right(1e-5));
    });
    fact("8-bit products are right, scaled by numbers on the device", [] {
        Life life;
        Product product(life, 4, 16, 64, CUDA_R_8F_E4M3, CUDA_R_32F);
        CUdeviceptr scales = life.upload(std::vector<float>{0.5f, 0.25f}), second = scales + 4;
        OK(cublasLtMatmulDescSetAttribute(product.desc, 17, &scales, sizeof scales));
        OK(cublasLtMatmulDescSetAttribute(product.desc, 18, &second, sizeof second));
        OK(product.run());
        THAT(product.is_right(1e-5, 0.125));
        THAT(e4m3_to_float(0x38) == 1 && e4m3_to_float(0x7e) == 448 && e4m3_to_float(0x01) == 0x1p-9f &&
             std::isnan(e4m3_to_float(0x7f)));
    });
    fact("transposes are taken as the attributes say", [] {
        Life life;
        Product product(life, 8, 8, 8);
        cublasOperation_t plain = CUBLAS_OP_N, transposed = CUBLAS_OP_T;
        OK(cublasLtMatmulDescSetAttribute(product.desc, 3, &plain, sizeof plain));
        OK(cublasLtMatmulDescSetAttribute(product.desc, 4, &transposed, sizeof transposed));
        OK(product.run());
        auto values = product.result();
        double want = 0;
        for (int i = 0; i < 8; i++) want += double(product.w_values[size_t(i * 8 + 2)]) * product.x_values[size_t(i * 8 + 5)];
        THAT(std::abs(values[5 * 8 + 2] - want) < 1e-4);
    });
}

void choices() {
    fact("algorithms have bytes of their own, and bits of their own", [] {
        Life life;
        Product product(life, 4, 64, 4096);
        auto algorithms = product.algorithms();
        THAT(algorithms.size() == 3 && memcmp(&algorithms[0].algo, &algorithms[1].algo, sizeof algorithms[0].algo) != 0);
        OK(product.run(&algorithms[0].algo));
        auto first = product.result();
        OK(product.run(&algorithms[1].algo));
        THAT(product.result() != first);
        OK(product.run(&algorithms[0].algo));
        THAT(product.result() == first);
    });
    fact("the batch changes the first choice, and a fixed one gives a row the same bits in any batch", [] {
        Life life;
        Product one(life, 1, 256, 1024), many(life, 128, 256, 1024);
        auto for_one = one.algorithms()[0], for_many = many.algorithms()[0];
        THAT(memcmp(&for_one.algo, &for_many.algo, sizeof for_one.algo) != 0);
        OK(one.run(&for_many.algo));
        OK(many.run(&for_many.algo));
        THAT(memcmp(one.result().data(), many.result().data(), 256 * 4) == 0);
    });
    fact("no algorithm wants more workspace than the preference allows", [] {
        Life life;
        Product product(life, 4, 64, 64);
        auto results = product.algorithms(0);
        THAT(results.size() == 1 && results[0].workspaceSize == 0);
    });
    fact("a workspace is overwritten", [] {
        Life life;
        Product product(life, 4, 64, 64);
        OK(cuMemsetD8Async(product.workspace, 0, 4, nullptr));
        OK(product.run(&product.algorithms()[0].algo));
        THAT(life.download<unsigned>(product.workspace, 1)[0] == 0xffffffff);
    });
}

void calls() {
    fact("a captured product runs at each launch of its graph", [] {
        Life life;
        Product product(life, 2, 8, 16);
        CUstream stream = life.stream();
        CUgraph graph;
        CUgraphExec executable;
        OK(cuMemsetD8Async(product.y, 0, 64, nullptr));
        OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        OK(product.run(nullptr, 1, 0, stream));
        OK(cuStreamEndCapture(stream, &graph));
        OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
        THAT(product.result()[0] == 0);
        OK(cuGraphLaunch(executable, stream));
        THAT(product.is_right(1e-5));
        OK(cuMemsetD8Async(product.x, 0, 64, nullptr));
        OK(cuGraphLaunch(executable, stream));
        THAT(product.result() == std::vector<float>(16, 0));
    });
    fact("shapes that don't fit and types that don't exist are refused", [] {
        Life life;
        Product product(life, 2, 8, 16);
        cublasLtMatrixLayout_t right = product.x_layout;
        OK(cublasLtMatrixLayoutCreate(&product.x_layout, CUDA_R_16BF, 15, 2, 15));
        GIVES(CUBLAS_STATUS_INVALID_VALUE, product.run());
        OK(cublasLtMatrixLayoutCreate(&product.x_layout, CUDA_R_8F_E4M3, 16, 2, 16));
        GIVES(CUBLAS_STATUS_NOT_SUPPORTED, product.run());
        product.x_layout = right;
        cublasLtMatmulAlgo_t junk{};
        GIVES(CUBLAS_STATUS_INVALID_VALUE, product.run(&junk));
        int wrong_size = 0;
        GIVES(CUBLAS_STATUS_INVALID_VALUE, cublasLtMatmulDescSetAttribute(product.desc, 8, &wrong_size, sizeof wrong_size));
    });
    fact("a matrix outside of device memory is an illegal address", [] {
        Life life;
        Product product(life, 2, 8, 16);
        OK(cuMemFree_v2(product.w));
        OK(product.run());
        GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
        GIVES(CUBLAS_STATUS_EXECUTION_FAILED, product.run());
    });
}

}  // namespace

int main() {
    values();
    choices();
    calls();
    return summary();
}
