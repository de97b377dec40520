#!/usr/bin/env bash
# Builds the fake libraries and checks what they promise: a line a fact, last "N passed, N failed".
# usage: fake/test.sh [test...]      (all of tests/*.cpp if none is given)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${FAKE_GPU_DIR:-$here/../../../../target/fake-gpu}"
"$here/build.sh" "$out"
out="$(cd "$out" && pwd)"

tests=("$@")
if [ "${#tests[@]}" = 0 ]; then
    for source in "$here"/tests/*.cpp; do tests+=("$(basename "$source" .cpp)"); done
fi

passed=0 failed=0
for test in "${tests[@]}"; do
    program="$out/objects/test-$test"
    g++ -std=c++20 -O1 -Wall -Wextra -Werror -pthread "$here/tests/$test.cpp" -o "$program" \
        -L"$out" -Wl,-rpath,"$out" -Wl,--no-as-needed -lcublasLt -lnccl -lcuda
    echo "-- $test"
    LD_LIBRARY_PATH="$out" timeout 60 "$program" | tee "$program.out" | sed '$d' || true
    summary="$(tail -n 1 "$program.out")"
    if [[ "$summary" =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
    else
        echo "FAILED  $test ended early: $summary"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
