"""Reads the machine code of a cubin: what kind of accesses a kernel makes, and whether it waits before it makes them.

A kernel launched so that it may begin before the one ahead of it has ended must wait (griddepcontrol.wait, ACQBULK in machine
code) before it reads or writes memory of the device, on every way through it. `complaints` proves that over the branches.
"""

import pathlib
import re
import subprocess
from typing import Iterator, NamedTuple

SECTION = re.compile(r"^\.text\.(\w+):$")
LABEL = re.compile(r"^(\S+):$")
INSTRUCTION = re.compile(r"^/\*[0-9a-f]+\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;")
TARGET = re.compile(r"`\(([^)]+)\)")
WAIT, LET_NEXT_BEGIN = "ACQBULK", "PREEXIT"
# Loads, stores, copies to shared memory and atomics of global memory; those of shared memory have names of their own.
GLOBAL = {"LD", "LDG", "LDGSTS", "ST", "STG", "ATOM", "ATOMG", "RED", "UBLKCP", "UBLKRED", "UTMALDG", "UTMASTG", "CCTL"}
# Where these go is not told here, so that none may come before the wait.
UNKNOWN = {"BRX", "JMX", "JMP"}
# The weights that these copy before they wait are written by no kernel that the host lets them overlap.
WEIGHTS_AHEAD = re.compile(r"gemm_small8?_[wf]")


class Instruction(NamedTuple):
    predicate: str | None
    name: str
    operands: str

    @property
    def base(self) -> str:
        return self.name.split(".")[0]


class Code:
    """A kernel's instructions and the places of its labels among them."""

    def __init__(self, name: str, instructions: list[Instruction] | None = None, labels: dict[str, int] | None = None):
        self.name, self.instructions, self.labels = name, instructions or [], labels or {name: 0}

    def target(self, i: int) -> int | None:
        found = TARGET.search(self.instructions[i].operands)
        return self.labels[found[1]] if found else None

    def next(self, i: int) -> Iterator[int]:
        """Where a thread may go from an instruction. A call goes on behind itself as well as in what it calls."""
        instruction = self.instructions[i]
        base = instruction.base
        if base in UNKNOWN:
            return
        if base in ("BRA", "CALL", "WARPSYNC", "BSSY") and (target := self.target(i)) is not None:
            yield target
        conditional = instruction.predicate or "P" in instruction.operands.split("`")[0]
        ends = base in ("EXIT", "RET") or (base == "BRA" and instruction.name != "BRA.DIV")
        if (not ends or conditional) and i + 1 < len(self.instructions):
            yield i + 1

    def reached_without_waiting(self) -> list[int]:
        """The instructions to which some way leads that has not come by a wait, which are walked through only once."""
        reached, front = {0}, [0]
        while front:
            i = front.pop()
            if self.instructions[i].base == WAIT and not self.instructions[i].predicate:
                continue
            for after in self.next(i):
                if after not in reached:
                    reached.add(after)
                    front.append(after)
        return sorted(reached)

    def in_loops(self) -> list[bool]:
        """For each instruction whether it lies between a branch and an earlier place that the branch goes to."""
        within = [False] * len(self.instructions)
        for i, instruction in enumerate(self.instructions):
            to = self.target(i) if instruction.base == "BRA" else None
            # A branch to itself is the trap behind a function's end.
            if to is not None and to < i:
                within[to : i + 1] = [True] * (i + 1 - to)
        return within


def read(disassembler: pathlib.Path, cubin: pathlib.Path) -> dict[str, Code]:
    """The kernels of a cubin by name."""
    done = subprocess.run([str(disassembler), "-c", str(cubin)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{disassembler}: {done.stderr}")
    kernels, code = {}, None
    for line in map(str.strip, done.stdout.splitlines()):
        if found := SECTION.match(line):
            code = kernels[found[1]] = Code(found[1])
        elif code and (found := INSTRUCTION.match(line)):
            code.instructions.append(Instruction(*found.groups()))
        elif code and (found := LABEL.match(line)):
            code.labels[found[1]] = len(code.instructions)
    return kernels


def complaints(kernels: dict[str, Code]) -> list[str]:
    """Kernels that touch memory, end, or let the next begin without having waited; and loads that need not see what others
    wrote meanwhile."""
    found = []
    for name, code in kernels.items():
        early = [code.instructions[i] for i in code.reached_without_waiting()]
        allowed = {"LDGSTS"} if WEIGHTS_AHEAD.fullmatch(name) else set()
        found += [f"{name}: {i.name} {i.operands} before it waits" for i in early if i.base in (GLOBAL - allowed) | UNKNOWN | {"EXIT", LET_NEXT_BEGIN}]
        found += [f"{name}: {i.name}: such a load may miss what an earlier kernel wrote" for i in code.instructions if i.base == "LDG" and "CONSTANT" in i.name]
        if not any(i.base == LET_NEXT_BEGIN for i in code.instructions):
            found.append(f"{name} never lets the next kernel begin")
    return found


def overlooked(kernels: dict[str, Code]) -> list[str]:
    """Kernels of which `complaints` would not tell that they have no wait, or one that a branch goes around."""
    found = []
    for name, code in kernels.items():
        without, around = (Code(name, [*change(code.instructions)], code.labels) for change in (without_waits, with_waits_that_may_not_be))
        found += [f"{name} without a wait would pass" for changed in (without, around) if not complaints({name: changed})]
    return found


def without_waits(instructions: list[Instruction]) -> Iterator[Instruction]:
    return (Instruction(None, "NOP", "") if i.base == WAIT else i for i in instructions)


def with_waits_that_may_not_be(instructions: list[Instruction]) -> Iterator[Instruction]:
    return (i._replace(predicate="@P0") if i.base == WAIT else i for i in instructions)


def width(name: str) -> int:
    """Bytes that an access moves a thread."""
    parts = name.split(".")
    return 16 if "128" in parts else 8 if "64" in parts else 2 if "U16" in parts or "S16" in parts else 1 if "U8" in parts or "S8" in parts else 4


def cells(code: Code) -> list[str]:
    """A row of the table."""
    bases = [i.base for i in code.instructions]
    looped = code.in_loops()

    def widths(base: str) -> str:
        moved = [width(i.name) for i in code.instructions if i.base == base]
        return ", ".join(f"{moved.count(w)}x{w}" for w in (16, 8, 4, 2, 1) if w in moved)

    def counted(number: int, in_loops: int) -> str:
        return f"{number} ({in_loops})" if number else ""

    barriers = [i for i, instruction in enumerate(code.instructions) if instruction.base == "BAR"]
    # A division of whole numbers by what is not known when it is compiled begins with the reciprocal as a float.
    divisions = [i for i, instruction in enumerate(code.instructions) if re.match(r"I2F.*\.RP", instruction.name)]
    doubles = sum(bases.count(base) for base in ("DADD", "DMUL", "DFMA"))
    plain = [widths("LDG"), widths("STG"), widths("LDGSTS"), widths("LDS"), widths("STS"), *(str(bases.count(b) or "") for b in ("LDSM", "HMMA"))]
    rest = [str(doubles or ""), str(bases.count("LDL") + bases.count("STL") or ""), counted(len(divisions), sum(looped[i] for i in divisions)),
            counted(len(barriers), sum(looped[i] for i in barriers))]
    return plain + rest


COLUMNS = ["loads", "stores", "copies", "shared loads", "shared stores", "ldmatrix", "mma", "f64", "local", "divisions", "barriers"]


def table(names: list[str], kernels: dict[str, Code]) -> list[str]:
    lines = ["| kernel | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    return lines + [f"| {name} | " + " | ".join(cells(kernels[name])) + " |" for name in names]
