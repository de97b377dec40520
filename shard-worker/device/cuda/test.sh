#!/bin/sh
# Builds tests/*.cpp against the kernels under the shim and runs them: a line a fact, last "N passed, N failed".
#   test.sh                    all
#   test.sh gemm norm          those
#   test.sh --mutations        also proves that each of the bugs of tests/mutations.py fails a test, which takes many minutes
#   test.sh --mutations=some   the first of them in each file of kernels
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${CUDA_TEST_DIR:-$here/../../../target/cuda-tests}
mkdir -p "$out"
exec python3 "$here/tests/run.py" --source "$here" --out "$out" "$@"
