// Algorithms: they differ in how they cut K, so in the last bits of a sum, as real ones do.
#pragma once

#include "product.h"

struct Algorithm {
    uint64_t magic;
    uint64_t splits;
    uint64_t workspace_bytes;
};

/// That of opaque bytes; null if they are no algorithm of this library.
const Algorithm* algorithm_of(const cublasLtMatmulAlgo_t* algo);
/// The `index`th of those for a product, best first; null behind the last.
const Algorithm* choice(const Product& product, unsigned index);
