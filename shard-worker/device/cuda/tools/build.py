"""Compiles the kernels for every target and reports what each needs; see ../build.sh."""

import argparse
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nvrtc
import sass

# Cubins for the devices in use; PTX for the driver to compile for any other.
CUBINS = ["sm_80", "sm_89", "sm_90a"]
PTX = ["compute_80", "compute_90"]
# What is disassembled: the code of the devices on which kernels may be launched before the ones ahead have ended.
DISASSEMBLED, OVERLAPPING_PTX = "sm_90a", "compute_90"
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '\w+'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)", re.DOTALL)
SHARED = re.compile(r"(\d+) bytes smem")


def needs(log: str) -> dict[str, dict[str, int]]:
    """What ptxas says each kernel needs."""
    kernels = {}
    for found in KERNEL.finditer(log):
        shared = SHARED.search(found["rest"])
        kernels[found["name"]] = {
            "registers": int(found["registers"]),
            "shared": int(shared[1]) if shared else 0,
            "stack": int(found["stack"]),
            "spills": int(found["stores"]) + int(found["loads"]),
        }
    return kernels


class Build:
    """Compiles the kernels' text: NVRTC makes PTX, ptxas makes cubins of it and says what they need."""

    def __init__(self, cuda: pathlib.Path, source: pathlib.Path, out: pathlib.Path):
        self.compiler, self.ptxas, self.out = nvrtc.Compiler(cuda / "cuda_nvrtc" / "lib"), cuda / "cuda_nvcc" / "bin" / "ptxas", out
        self.disassembler = cuda / "cu13" / "bin" / "nvdisasm"
        self.text = nvrtc.whole_text(source / "kernels")

    def ptx(self, arch: str) -> pathlib.Path:
        path = self.out / f"tessera.{arch}.ptx"
        path.write_bytes(self.compiler.compile(self.text, arch))
        return path

    def cubin(self, arch: str) -> dict[str, dict[str, int]]:
        ptx = self.ptx(arch.replace("sm_", "compute_"))
        command = [str(self.ptxas), f"-arch={arch}", "-v", str(ptx), "-o", str(self.out / f"tessera.{arch}.cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 or "warning" in done.stderr:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        if ptx.stem.split(".")[1] not in PTX:
            ptx.unlink()
        return needs(done.stderr)

    def machine_code(self) -> dict[str, sass.Code]:
        return sass.read(self.disassembler, self.out / f"tessera.{DISASSEMBLED}.cubin")

    def hurried_loads(self) -> list[str]:
        """Loads that a driver's compiler may move before a kernel's wait: it takes what they read for constant."""
        text = (self.out / f"tessera.{OVERLAPPING_PTX}.ptx").read_text()
        return [f"{OVERLAPPING_PTX}: ld.global.nc"] if "ld.global.nc" in text else []

    def at_run_time(self, arch: str, names: list[str]) -> list[str]:
        """Kernels that are missing in the cubin that a worker would make for itself."""
        cubin = self.compiler.compile(self.text, arch)
        return [f"NVRTC left out {name}" for name in names if b"\0.text." + name.encode() + b"\0" not in cubin]


def table(names: list[str], by_target: dict[str, dict[str, dict[str, int]]], code: dict[str, sass.Code]) -> str:
    lines = [
        "# What the kernels need",
        "",
        "Written by `build.sh`, kept true by `build.sh --check`. Registers a thread / bytes of static shared memory a block;",
        "dynamic shared memory is the launch's. No kernel spills: the build fails where one does.",
        "",
        "| kernel | " + " | ".join(by_target) + " |",
        "| --- |" + " --- |" * len(by_target),
    ]
    for name in names:
        cells = [f"{kernels[name]['registers']} / {kernels[name]['shared']}" for kernels in by_target.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"## What is in their code for {DISASSEMBLED}",
        "",
        "Instructions, not how often they run. Accesses of global and of shared memory are told by the bytes that each moves a thread:",
        "`6x16, 7x4` are six of 16 bytes and seven of 4; copies go from global to shared memory by themselves. In brackets, how many are",
        "in loops; divisions are those of whole numbers by what is not known beforehand. The build fails where a way through a",
        "kernel leads to global memory without a wait for the kernels ahead (`tools/sass.py`). reading.md tells what all this showed.",
        "",
        *sass.table(names, code),
    ]
    return "\n".join(lines) + "\n"


def complaints(names: list[str], by_target: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """Kernels that spill, and names that kernels.def and the compiled code do not share."""
    found = []
    for arch, kernels in by_target.items():
        found += [f"{arch}: {name} is in kernels.def, and is not compiled" for name in names if name not in kernels]
        found += [f"{arch}: {name} is compiled, and is not in kernels.def" for name in kernels if name not in names]
        found += [f"{arch}: {name} spills {k['spills']} bytes" for name, k in kernels.items() if k["spills"]]
        found += [f"{arch}: {name} has a stack of {k['stack']} bytes: an array that is not in registers" for name, k in kernels.items() if k["stack"]]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuda", type=pathlib.Path, required=True)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = re.findall(r"^KERNEL\((\w+)\)$", (args.source / "kernels" / "kernels.def").read_text(), re.MULTILINE)
    build = Build(args.cuda, args.source, args.out)
    for arch in PTX:
        build.ptx(arch)
    with ThreadPoolExecutor() as pool:
        by_target = dict(zip(CUBINS, pool.map(build.cubin, CUBINS)))
    code = build.machine_code()
    wrong = complaints(names, by_target) or build.at_run_time("sm_90", names)
    wrong += sass.complaints(code) + sass.overlooked(code) + build.hurried_loads()
    report, text = args.source / "report.md", table(names, by_target, code) if not wrong else ""
    if not wrong and args.check and (not report.exists() or report.read_text() != text):
        wrong.append("report.md is not what the tree compiles to: run build.sh")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    if not args.check:
        report.write_text(text)
    print(f"{len(names)} kernels for {', '.join(CUBINS + PTX)} and by NVRTC alone; none spills, and all wait for the kernels ahead")
    return 0


if __name__ == "__main__":
    sys.exit(main())
