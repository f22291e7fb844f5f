"""A CUDA device for tests: `mx.fast.cuda_kernel` launches run in the grid emulator."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
from devices import anew
from msl_check.cuda import cuda_text

import mlx_dequant as mxd
from mlx_dequant import backends
from mlx_dequant.kernel_text import STRING

from .device import as_array, blank, forget, numpy_of
from .launch import Options, fenced, run
from .text import ended

Launch = Callable[[dict[str, Any], dict[str, Any]], list[mx.array]]
Programs = dict[tuple[str, str], str]  # header and function, as MLX puts them together, and a name

_INCLUDE = re.compile(r"^#include .*$", re.MULTILINE)
_ATTRIBUTES = re.compile(r"^#undef __global__\n#define __global__ .*\n", re.MULTILINE)
_SHARED = re.compile(r"extern __shared__ __align__\(1024\) ?(\w+) (\w+)\[\]")
_CONSTRAINT = re.compile(r'"[=+]?[rlf]"\(')
_PART = r'((?:"[^"]*"|[^":])*?)'  # of an asm statement, whose strings may have colons
_ASSEMBLY = re.compile(rf'\basm(?: \w+)?\({_PART}(?::{_PART}(?::{_PART}(?:: ?"memory")?)?)?\);')


@contextmanager
def cuda(together: Callable[[], Any] = lambda: None, **options: Any) -> Generator[None]:
    """Backend "cuda" is available and in force, and its kernels run in the emulator.

    Args:
        together: launches kernels, whose programs are then compiled in one go; others one by one.
        options: those of `Options`.
    """
    known: Programs = {}

    def ask(kernel: dict[str, Any], call: dict[str, Any]) -> list[mx.array]:
        known[cuda_text(kernel, call)] = kernel["name"]
        return [mx.zeros(*one) for one in zip(call["output_shapes"], call["output_dtypes"], strict=True)]

    with _launches(ask):
        together()
    chosen = Options(**options, cuda=True)
    source, places = cpp(known), {program: at for at, program in enumerate(known)}

    def launch(kernel: dict[str, Any], call: dict[str, Any]) -> list[mx.array]:
        program = cuda_text(kernel, call)
        text = source if program in places else cpp({program: kernel["name"]})
        which = fenced(np.array([places.get(program, 0), kernel.get("shared_memory", 0)], np.uint32))
        inputs = [fenced(_whole_words(numpy_of(array))) for array in call["inputs"]]
        outputs = [blank(*one) for one in zip(call["output_shapes"], call["output_dtypes"], strict=True)]
        run(text, [which, *inputs, *outputs], call["grid"], call["threadgroup"], chosen)
        return [as_array(*one) for one in zip(outputs, call["output_dtypes"], strict=True)]

    with _launches(launch):
        yield


def _whole_words(array: np.ndarray) -> np.ndarray:
    """The bytes up to the next multiple of 4: MLX allocates no less, and programs may read as much."""
    octets = array.reshape(-1).view(np.uint8)
    return np.pad(octets, (0, -octets.size % 4), constant_values=0xFF)


@contextmanager
def _launches(launch: Launch) -> Generator[None]:
    forget()
    try:
        with (
            patch.object(mx.fast, "cuda_kernel", lambda **kernel: lambda **call: launch(kernel, call)),
            patch.object(backends.cuda, "available", lambda: True),
            anew(),
            mxd.use_backend("cuda"),
        ):
            yield
    finally:
        forget()


def cpp(programs: Programs) -> str:
    """A program of C++, of programs for NVRTC; the first buffer tells which of them runs, and its shared memory.

    Those with one header are one namespace. CUDA's own headers and attributes of kernels are left out, shared memory
    belongs to the threadgroup at hand, and an instruction in assembly is a call of its text and operands, for which
    macros may stand.
    """
    spaces: dict[str, int] = {}
    functions: dict[str, str] = {}
    cases: list[str] = []
    for at, ((header, function), name) in enumerate(programs.items()):
        space = spaces.setdefault(header, len(spaces))
        functions[header] = functions.get(header, "") + f'#line 1 "body of {name}"\n' + function
        cases.append(f"case {at}: return emulator::call(program_{space}::mlx::core::cu::custom_kernel_{name}, p + 1);")
    text = "".join(f"namespace program_{spaces[one]} {{\n{one}\n{functions[one]}}}\n{ended(one)}" for one in spaces)
    text = _INCLUDE.sub("", text)
    text = _ATTRIBUTES.sub("", text)
    text = _SHARED.sub(r"\1* \2 = (\1*)emulator::shared_memory()", text)
    text = _CONSTRAINT.sub("(", text)
    text = STRING.sub(lambda match: match[0].replace(", ", ","), text)  # as short texts have it
    text = _ASSEMBLY.sub(_instruction, text)
    return f"""#include "cuda.h"
{text}
#line 1 "emulator"
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT void emulator_bind(const emulator::Hooks* hooks) {{ emulator::hooks = hooks; }}
EXPORT void emulator_run(void* const* p, const emulator::Thread*) {{
  const uint32_t* which = (const uint32_t*)p[0];
  emulator::shared_bytes = which[1];
  switch (which[0]) {{
    {" ".join(cases)}
  }}
}}
"""


def _instruction(match: re.Match[str]) -> str:
    words, *operands = match.groups("")
    return f"emulator::instruction({words}, {{{', '.join(one for one in operands if one.strip())}}});"
