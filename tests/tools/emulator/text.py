"""The text that MLX would hand to Metal's compiler, and the C++ that runs it here."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Parameter:
    """A parameter of the generated function: a buffer, or an attribute such as a thread's index."""

    type: str
    name: str
    attribute: str

    @property
    def is_buffer(self) -> bool:
        return self.attribute.startswith("buffer(")


@contextmanager
def _standard_output() -> Generator[Callable[[], str]]:
    """What this process prints inside the `with`, C++ included: call the result afterwards."""
    flush = ctypes.CDLL(None).fflush
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        flush(None)
        terminal = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield lambda: (file.seek(0), file.read().decode("ascii"))[1]
        finally:
            flush(None)
            os.dup2(terminal, 1)
            os.close(terminal)


def generated(kernel: Callable, inputs: list[mx.array], **launch) -> str:
    """Header, signature and body as MLX generates them for a launch of `mx.fast.metal_kernel`'s result."""

    def call(*arrays: mx.array) -> list[mx.array]:
        return kernel(inputs=list(arrays), verbose=True, **launch)

    with _standard_output() as printed:
        mx.export_function(lambda _: None, call, *inputs)
        ctypes.CDLL(None).fflush(None)
        text = printed()
    match = re.fullmatch(r"Generated source code for `\w+`:\n```\n(.*)\n```\n", text, re.DOTALL)
    if match is None:
        raise ValueError(f"MLX printed no source code of one kernel: {text[:200]!r}")
    return match[1]


def signature(text: str) -> tuple[str, list[Parameter]]:
    """The generated function's name and its parameters."""
    match = re.search(r"\[\[kernel\]\] void (\w+)\((.*?)\) \{$", text, re.DOTALL | re.MULTILINE)
    if match is None:
        raise ValueError("found no [[kernel]] function")
    if re.search(r"^template .*\[\[host_name", text, re.MULTILINE):
        raise ValueError(f"{match[1]}: template arguments are not supported; write the types in the body")
    declared = re.findall(r"^\s*(.+?)\s*(\w+) \[\[(.+?)\]\](?:,|$)", match[2], re.MULTILINE)
    return match[1], [Parameter(kind, name, attribute) for kind, name, attribute in declared]


_SCRATCH = re.compile(
    r"(?:\balignas\(16\) )?\bthreadgroup\s+([\w:]+(?:<[^<>;]*>)?)\s+(\w+)((?:\s*\[[^\]\n]*\])*)\s*(;|$)", re.MULTILINE
)


def cpp(text: str) -> str:
    """A program of C++: `text`, two rewritings aside, between the shim and the function that calls it.

    C++ says `const` once where MLX says `const constant`, and threadgroup memory belongs to the
    threadgroup at hand. Lines of the body are counted by themselves.
    """
    function, parameters = signature(text)
    text = text.replace("const constant ", "constant ")
    end = re.search(r"\[\[kernel\]\] void .*?\) \{\n", text, re.DOTALL).end()
    text = f'{text[:end]}#line 1 "body"\n{text[end:]}'
    text = _SCRATCH.sub(r"auto& \2 = emulator::shared<\1\3>(__COUNTER__)\4", text)
    arguments = []
    for at, parameter in enumerate(parameters):
        if parameter.is_buffer:
            arguments.append(_buffer(parameter, at))
        elif parameter.type == "uint3":
            arguments.append("uint3({0}[0], {0}[1], {0}[2])".format(f"t->{parameter.attribute}"))
        else:
            arguments.append(f"t->{parameter.attribute}")
    return f"""#include "metal.h"
#line 1 "{function}"
{text}
{ended(text)}
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT void emulator_bind(const emulator::Hooks* hooks) {{ emulator::hooks = hooks; }}
EXPORT void emulator_run(void* const* p, const emulator::Thread* t) {{
  {function}({", ".join(arguments)});
}}
"""


def ended(text: str) -> str:
    """Lines after which the text's macros of one letter or two are none."""
    return "".join(f"#undef {name}\n" for name in re.findall(r"^#define (\w\w?) ", text, re.MULTILINE))


def _buffer(parameter: Parameter, at: int) -> str:
    kind = parameter.type.replace("const constant ", "constant ")
    if kind.endswith("&"):
        return f"*({kind[:-1]}*)p[{at}]"
    return f"({kind})p[{at}]"
