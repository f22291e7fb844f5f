"""Runs a compiled program over a grid: in this process, or in one that a sanitizer watches."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from mlx_dequant.backends.host.compiler import compiler

from . import build

ORDERS = ("forward", "reverse", "shuffled", "ahead")


class EmulatorError(Exception):
    """A kernel did what no kernel may: threads diverged, or a sanitizer objected."""


@dataclass(frozen=True)
class Options:
    """How programs are built and run.

    Attributes:
        order: in which threadgroups, and threads of one, take turns; one of `ORDERS`. "ahead": the first
            threads that can go on do, as far as they can.
        seed: of the shuffled order.
        flush: subnormal operands and results are zero while kernels run.
        flags: for the compiler, after its own.
        sanitizer: "address" (with UBSan) or "thread": kernels run in a process of their own.
        cuda: programs are CUDA's, not Metal's.
    """

    order: str = "forward"
    seed: int = 1
    flush: bool = False
    flags: tuple[str, ...] = ()
    sanitizer: str | None = None
    cuda: bool = False


MARGIN = 4096
FENCE = 0xA5


def fenced(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes, between margins that a kernel must leave alone."""
    octets = np.full(array.nbytes + 2 * MARGIN + 64, FENCE, np.uint8)
    first = MARGIN + -octets.ctypes.data % 64
    copy = octets[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _margins(buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    octets = buffer
    while octets.base is not None:
        octets = octets.base
    first = buffer.ctypes.data - octets.ctypes.data
    return octets[:first], octets[first + buffer.nbytes :]


def run(
    text: str,
    buffers: list[np.ndarray],
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
    options: Options,
) -> None:
    """Runs a C++ program (`text.cpp`) on buffers from `fenced`, in the parameters' order, in place.

    Raises:
        EmulatorError: threads diverged, a write left its buffer, or the sanitizer found something.
    """
    threadgroup = tuple(min(pair) for pair in zip(grid, threadgroup, strict=True))
    if not 0 < np.prod(threadgroup) <= 1024:
        raise EmulatorError(f"threadgroup: found {threadgroup}, expected 1 to 1024 threads")
    program = build.program(text, options.flags, options.sanitizer, options.cuda)
    if options.sanitizer:
        _watched(program, buffers, [*grid, *threadgroup], options)
    else:
        _here(program, buffers, grid, threadgroup, options)


def _here(program: Path, buffers: list[np.ndarray], grid, threadgroup, options: Options) -> None:
    library = ctypes.CDLL(str(program))
    addresses = (ctypes.c_void_p * len(buffers))(*(buffer.ctypes.data for buffer in buffers))
    message = ctypes.create_string_buffer(1024)
    failed = build.runtime().emulator_launch(
        library.emulator_bind,
        library.emulator_run,
        addresses,
        (ctypes.c_uint32 * 3)(*grid),
        (ctypes.c_uint32 * 3)(*threadgroup),
        ORDERS.index(options.order),
        ctypes.c_uint32(options.seed),
        int(options.flush),
        message,
        ctypes.c_size_t(len(message)),
    )
    if failed:
        raise EmulatorError(message.value.decode())
    for at, buffer in enumerate(buffers):
        if any((margin != FENCE).any() for margin in _margins(buffer)):
            raise EmulatorError(f"buffer {at}: written outside of its {buffer.nbytes} bytes")


ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "TSAN_OPTIONS": "report_thread_leaks=0:halt_on_error=1",
}


def _watched(program: Path, buffers: list[np.ndarray], sizes: list[int], options: Options) -> None:
    assert options.sanitizer
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(i) for i in range(len(buffers))]
        for file, buffer in zip(files, buffers, strict=True):
            buffer.tofile(file)
        words = [ORDERS.index(options.order), options.seed, int(options.flush), *sizes]
        done = subprocess.run(
            [str(build.runner(options.sanitizer)), str(program), *map(str, words), *map(str, files)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **ENVIRONMENT},
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "makecontext/swapcontext" not in line]
            raise EmulatorError("\n".join(lines)[:8000])
        for file, buffer in zip(files, buffers, strict=True):
            buffer[...] = np.fromfile(file, buffer.dtype).reshape(buffer.shape)


@cache
def obstacle(sanitizer: str) -> str | None:
    """Why this machine's compiler cannot run kernels under a sanitizer; None if it can."""
    tool = compiler()
    if tool is None or "ziglang" in tool.command:
        return "no clang++ or g++ was found, and ziglang has no AddressSanitizer"
    text = """#include "metal.h"
    extern "C" __attribute__((visibility("default"))) void emulator_bind(const emulator::Hooks*) {}
    extern "C" __attribute__((visibility("default"))) void emulator_run(void* const*, const emulator::Thread*) {}
    """
    try:
        run(text, [], (1, 1, 1), (1, 1, 1), Options(sanitizer=sanitizer))
    except (build.BuildError, EmulatorError, subprocess.TimeoutExpired) as error:
        return f"the {sanitizer} sanitizer does not work here: {error}"
    return None
