#!/usr/bin/env bash
# Builds libcuda, libcublasLt and libnccl that run on the CPU, for tests without a GPU.
# usage: fake/build.sh [folder]      (target/fake-gpu if not given)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:-$here/../../../../target/fake-gpu}"
mkdir -p "$out/objects"
out="$(cd "$out" && pwd)"
# Several tests may build at once.
exec 9> "$out/objects/lock"
flock 9

# The machine and the rounding that the kernels' own tests use: no contraction.
flags=(-std=c++20 -O2 -fPIC -fvisibility=hidden -march=x86-64-v3 -ffp-contract=off -Wall -Wextra -Werror -Wno-unused-function -Wno-unknown-pragmas -pthread)

# An object is built anew if its source or any header is newer.
compile() {
    local source="$1" object="$2"
    if [ "$object" -nt "$source" ] && [ -z "$(find "$here"/{cuda,cublaslt,nccl,*.h} "$here"/../{shim,kernels} \( -name '*.h' -o -name '*.cuh' -o -name '*.cu' -o -name '*.def' \) -newer "$object")" ]; then
        return
    fi
    g++ "${flags[@]}" -c "$source" -o "$object"
}

# library FOLDER SONAME PLAIN_NAME [linker options]: the sources of a folder, two at a time.
library() {
    local folder="$1" soname="$2" plain="$3" objects=() jobs=()
    shift 3
    for source in "$here/$folder"/*.cpp; do
        local object="$out/objects/$folder-$(basename "$source" .cpp).o"
        compile "$source" "$object" &
        jobs+=($!)
        objects+=("$object")
        if [ "${#jobs[@]}" -ge 2 ]; then wait "${jobs[0]}"; jobs=("${jobs[@]:1}"); fi
    done
    for job in "${jobs[@]}"; do wait "$job"; done
    g++ -shared -pthread -Wl,-soname,"$soname" -Wl,-rpath,'$ORIGIN' -Wl,-z,defs -o "$out/$soname.new" "${objects[@]}" "$@"
    # A process that has the old one open keeps it.
    mv "$out/$soname.new" "$out/$soname"
    ln -sf "$soname" "$out/$plain"
}

library cuda libcuda.so.1 libcuda.so
library cublaslt libcublasLt.so.13 libcublasLt.so -L"$out" -lcuda
library nccl libnccl.so.2 libnccl.so -L"$out" -lcuda
