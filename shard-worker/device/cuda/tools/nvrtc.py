"""Compiles the kernels as a running worker does: one text, by NVRTC, with no file and no include path."""

import ctypes
import pathlib
import re

# NVRTC takes a lambda with `auto` parameters for a host function without the second option; nvcc does not.
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


def compile_text(cuda: pathlib.Path, text: str, arch: str, names: list[str]) -> bytes:
    """A cubin of the text; fails unless it has all kernels."""
    # The library looks for its built-in functions by name only.
    ctypes.CDLL(str(cuda / "lib" / "libnvrtc-builtins.so.13.0"), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(cuda / "lib" / "libnvrtc.so.13"))
    program = ctypes.c_void_p()
    options = [option.encode() for option in [f"--gpu-architecture={arch}", *OPTIONS]]

    def checked(status: int) -> None:
        if status == 0:
            return
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise SystemExit(f"NVRTC: status {status}\n{log.value.decode()}")

    checked(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"tessera.cu", 0, None, None))
    checked(nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)))
    size = ctypes.c_size_t()
    checked(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    cubin = ctypes.create_string_buffer(size.value)
    checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    missing = [name for name in names if b"\0.text." + name.encode() + b"\0" not in cubin.raw]
    if missing:
        raise SystemExit(f"NVRTC left out {', '.join(missing)}")
    return cubin.raw
