"""Builds and runs the kernels' tests; see ../test.sh."""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from mutations import MUTATIONS, Mutation

# -ffp-contract=off: the explicit operations (__fadd_rn, __fmaf_rn) round as they say. -fno-strict-aliasing: kernels load
# numbers as 16-byte vectors. The sanitizer finds accesses that a device refuses because they are not aligned, and indices
# beyond an array.
FLAGS = ["-std=c++17", "-O2", "-march=x86-64-v3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
         "-Wno-unknown-pragmas", "-fno-strict-aliasing", "-fsanitize=alignment,bounds,shift,signed-integer-overflow", "-fno-sanitize-recover=all"]
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)
LIMIT_S = 120
COMPLAINTS = 20


def build(source: pathlib.Path, test: str, program: pathlib.Path, *more: str) -> str:
    """Compiles a test; returns the first of the compiler's complaints, empty when there are none."""
    compiler = os.environ.get("CXX", "g++")
    done = subprocess.run([compiler, *FLAGS, *more, str(source / "tests" / f"{test}.cpp"), "-o", str(program)],
                          capture_output=True, text=True)
    return "" if done.returncode == 0 else "\n".join(done.stderr.splitlines()[:COMPLAINTS])


def run(program: pathlib.Path, **environment: str) -> tuple[str, int, int]:
    """Runs a test; returns what it printed and the facts that passed and failed, a crash being one that failed."""
    try:
        done = subprocess.run([str(program)], capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **environment})
    except subprocess.TimeoutExpired:
        return f"FAILED  {program.name} did not end within {LIMIT_S} s", 0, 1
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


def mutate(source: pathlib.Path, out: pathlib.Path, number: int, mutation: Mutation) -> tuple[str, int, int]:
    """Runs a test over a copy of the tree that has one bug; it passes when the test fails."""
    name = f"{mutation.file}: '{mutation.text}' -> '{mutation.bug}'".replace("\n", " ")
    copy = out / f"mutant-{number}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    kernel = copy / "kernels" / mutation.file
    text = kernel.read_text()
    if text.count(mutation.text) != 1:
        return f"FAILED  {name}: the text is there {text.count(mutation.text)} times", 0, 1
    kernel.write_text(text.replace(mutation.text, mutation.bug))
    program = copy / mutation.test
    complaints = build(copy, mutation.test, program, "-w")
    if complaints:
        return f"FAILED  {name} does not compile:\n{complaints}", 0, 1
    said, _, failed = run(program, CUDA_TEST_STOP="1")
    shutil.rmtree(copy)
    if failed:
        noticed = [line for line in said.splitlines() if line.startswith("FAILED")][0]
        return f"ok      {name}\n        {noticed[8:160]}", 1, 0
    return f"FAILED  {name} is not noticed", 0, 1


def first_of_each_file() -> list[Mutation]:
    files: dict[str, Mutation] = {}
    for mutation in MUTATIONS:
        files.setdefault(mutation.file, mutation)
    return list(files.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--mutations", choices=["all", "some"])
    parser.add_argument("tests", nargs="*")
    args = parser.parse_args([{"--mutations": "--mutations=all"}.get(arg, arg) for arg in sys.argv[1:]])
    names = args.tests or sorted(path.stem for path in (args.source / "tests").glob("*.cpp"))
    mutations = [mutation for mutation in {"all": MUTATIONS, "some": first_of_each_file()}.get(args.mutations, []) if mutation.test in names]
    passed = failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tests = [(name, pool.submit(test, args.source, args.out, name)) for name in names]
        mutants = [pool.submit(mutate, args.source, args.out, *numbered) for numbered in enumerate(mutations)]
        for name, result in tests + [("mutation", mutant) for mutant in mutants]:
            text, good, bad = result.result()
            print(f"-- {name}\n{text}", flush=True)
            passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
