"""Compiles the kernels as a running worker does: one text, by NVRTC, with no file and no include path."""

import ctypes
import pathlib
import re

# NVRTC takes a lambda with `auto` parameters for a host function without the second option.
OPTIONS = ["--std=c++17", "--device-as-default-execution-space"]
INCLUDE = re.compile(r'#include "(\w+\.cuh)"')


def whole_text(kernels: pathlib.Path) -> str:
    """The files that all.cu names, one after the other: what a program embeds. No file includes another."""
    text = ""
    for line in (kernels / "all.cu").read_text().splitlines():
        found = INCLUDE.fullmatch(line)
        if not found:
            raise SystemExit(f"all.cu: '{line}' is not the include of a kernel file")
        part = (kernels / found[1]).read_text()
        if "#include" in part:
            raise SystemExit(f"{found[1]} includes another file")
        text += f'#line 1 "{found[1]}"\n{part}'
    return text


class Compiler:
    """NVRTC from a folder of its libraries."""

    def __init__(self, libraries: pathlib.Path):
        # The library looks for its built-in functions by name only.
        for builtins in libraries.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(next(libraries.glob("libnvrtc.so.*"))))

    def _log(self, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        self.library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(program, log)
        return log.value.decode()

    def _checked(self, program: ctypes.c_void_p, status: int) -> None:
        if status:
            raise SystemExit(f"NVRTC: status {status}\n{self._log(program)}")

    def compile(self, text: str, arch: str) -> bytes:
        """The text's code for an architecture: PTX for compute_NN, a cubin for sm_NN. What is worth a warning fails."""
        program = ctypes.c_void_p()
        options = [option.encode() for option in [f"--gpu-architecture={arch}", *OPTIONS]]
        self._checked(program, self.library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"tessera.cu", 0, None, None))
        self._checked(program, self.library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)))
        log = self._log(program)
        if "warning" in log:
            raise SystemExit(f"NVRTC, {arch}:\n{log}")
        kind = "PTX" if arch.startswith("compute_") else "CUBIN"
        size = ctypes.c_size_t()
        self._checked(program, getattr(self.library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        self._checked(program, getattr(self.library, f"nvrtcGet{kind}")(program, code))
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return code.raw.rstrip(b"\0") if kind == "PTX" else code.raw
