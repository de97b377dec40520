"""Builds and runs the kernels' tests; see ../test.sh."""

import argparse
import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# -ffp-contract=off: the explicit operations (__fadd_rn, __fmaf_rn) round as they say. -fno-strict-aliasing: kernels load
# numbers as 16-byte vectors. The sanitizer finds accesses that a device refuses because they are not aligned, and indices
# beyond an array.
FLAGS = ["-std=c++17", "-O2", "-march=x86-64-v3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
         "-Wno-unknown-pragmas", "-fno-strict-aliasing", "-fsanitize=alignment,bounds,shift,signed-integer-overflow", "-fno-sanitize-recover=all"]
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)
LIMIT_S = 300


def build(source: pathlib.Path, test: str, program: pathlib.Path) -> str:
    """Compiles a test; returns the compiler's complaints, empty when there are none."""
    compiler = os.environ.get("CXX", "g++")
    done = subprocess.run([compiler, *FLAGS, str(source / "tests" / f"{test}.cpp"), "-o", str(program)],
                          capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr


def run(program: pathlib.Path) -> tuple[str, int, int]:
    """Runs a test; returns what it printed and the facts that passed and failed, a crash being one that failed."""
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=LIMIT_S)
    counts = SUMMARY.findall(done.stdout)
    if not counts or (done.returncode != 0 and counts[-1][1] == "0"):
        text = done.stdout + f"FAILED  {program.name} ended with status {done.returncode}: {done.stderr[-2000:]}"
        return text, text.count("\nok "), 1
    return SUMMARY.sub("", done.stdout).rstrip(), int(counts[-1][0]), int(counts[-1][1])


def test(source: pathlib.Path, out: pathlib.Path, name: str) -> tuple[str, int, int]:
    complaints = build(source, name, out / name)
    if complaints:
        return f"FAILED  {name} does not compile:\n{complaints}", 0, 1
    return run(out / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--mutations", action="store_true")
    parser.add_argument("tests", nargs="*")
    args = parser.parse_args()
    names = args.tests or sorted(path.stem for path in (args.source / "tests").glob("*.cpp"))
    passed = failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, (text, good, bad) in zip(names, pool.map(lambda n: test(args.source, args.out, n), names)):
            print(f"-- {name}\n{text}", flush=True)
            passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
