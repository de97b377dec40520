#!/bin/sh
# Compiles the kernels with NVRTC and ptxas of tools/toolkit.txt, which it installs from PyPI into target/cuda-toolkit: those of
# CUDA 12.8, so that drivers of CUDA 12.8 and newer take what they make.
#   build.sh          cubins and PTX in target/cubins, and report.md: registers and shared memory of each kernel, and what is in its code
#   build.sh --check  fails where report.md is not what the tree compiles to
# A spill fails both, and so does a kernel that does not wait for the one ahead of it before it touches memory. Needs no GPU.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../../target}
toolkit=$target/cuda-toolkit
mkdir -p "$target"
if ! cmp -s "$here/tools/toolkit.txt" "$toolkit/installed.txt"; then
    python3 -m venv --clear "$toolkit"
    "$toolkit/bin/pip" install --quiet --no-deps --requirement "$here/tools/toolkit.txt"
    cp "$here/tools/toolkit.txt" "$toolkit/installed.txt"
fi
cuda=$(echo "$toolkit"/lib/python3*/site-packages/nvidia)
exec python3 "$here/tools/build.py" --cuda "$cuda" --source "$here" --out "$target/cubins" "$@"
