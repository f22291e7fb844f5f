"""From Metal text to AGX machine code: clang, the translator to SPIR-V, Mesa's asahi_clc."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from mlx_dequant.disk_cache import cache_folder

SHIM = Path(__file__).parent / "shim"

_CLANG = (
    *("clang-15", "-x", "cl", "-cl-std=clc++2021", "-cl-no-stdinc", "-target", "spir64-unknown-unknown"),
    *("-O2", "-S", "-emit-llvm", "-ffp-contract=on", "-fno-vectorize", "-fno-slp-vectorize"),
    # LLVM's own limits on inlining and unrolling: the sources say what is to be inlined and unrolled.
    *("-fno-discard-value-names", "-Xclang", "-no-opaque-pointers", "-w", "-isystem", str(SHIM)),
    *("-Xclang", "-cl-ext=+cl_khr_fp16,+__cl_clang_non_portable_kernel_param_types"),
)
_TRANSLATE = ("llvm-spirv-15", "--spirv-max-version=1.4", "--spirv-ext=-all", "--spirv-fp-contract=fast")

_ID = "uint3(get_{0}_id(0), get_{0}_id(1), get_{0}_id(2))"
# What a kernel may ask of a thread's place, in threadgroups whose first axis is a multiple of 32.
_PLACES = {
    "thread_position_in_threadgroup": _ID.format("local"),
    "threadgroup_position_in_grid": _ID.format("group"),
    "thread_index_in_simdgroup": "uint(get_local_id(0)) % 32",
    "simdgroup_index_in_threadgroup": "uint(get_local_id(0)) / 32 + uint(get_local_id(1)) * ({x} / 32)",
}
_KERNEL = re.compile(r"\[\[kernel\]\] void (\w+)\((.*?)\)\s*\{", re.DOTALL)
_PARAMETER = re.compile(r"\s*(.*?(\w+)) \[\[(\w+)(?:\(\d+\))?\]\]\s*(?:,|$)", re.DOTALL)
_TABLE = re.compile(r'^(@[\w.$]+|@"[^"]+") = .*?addrspace\(2\) constant (\[.*?x \w+\]) .*\n', re.MULTILINE)


class AgxError(Exception):
    """A step of the compiler failed."""


def folder() -> Path:
    """Where the compiler is built: AGX_MESA, or a folder in the user's cache."""
    asked = os.environ.get("AGX_MESA")
    return Path(asked) if asked else cache_folder() / "agx-mesa"


def asahi_clc() -> Path | None:
    """The compiler, where it is built."""
    path = folder() / "build/src/asahi/clc/asahi_clc"
    return path if path.is_file() else None


def opencl(text: str, threadgroup: tuple[int, int, int]) -> str:
    """A Metal program of one kernel as one of C++ for OpenCL: what tells a thread its place becomes a variable."""
    found = _KERNEL.search(text)
    if not found:
        raise AgxError("found no [[kernel]]")
    buffers, places = [], []
    for declared, _, what in _PARAMETER.findall(found[2]):
        if what == "buffer":
            buffers.append(declared)
        elif what in _PLACES:
            places.append(f"{declared} = {_PLACES[what].format(x=threadgroup[0])};")
        else:
            raise AgxError(f"{found[1]}: found [[{what}]], expected one of {', '.join(_PLACES)}")
    size = ", ".join(map(str, threadgroup))
    head = f"__kernel __attribute__((reqd_work_group_size({size}))) void {found[1]}({', '.join(buffers)}) {{"
    body = text[found.end() :]
    return "\n".join(["#include <metal_stdlib>", text[: found.start()], head, *places, body])


def translatable(ir: str) -> str:
    """LLVM's text so that the translator and Mesa take it, with tables as arguments of the kernel."""
    # The translator knows OpenCL's functions in modules of OpenCL C alone.
    ir = re.sub(r"(?m)^!opencl\.\S+ = .*\n", "", ir)
    ir += "\n!opencl.ocl.version = !{!90000}\n!opencl.spir.version = !{!90000}\n!90000 = !{i32 2, i32 0}\n"
    # LLVM has unrolled what is to be unrolled.
    ir = re.sub(r", !llvm\.loop !\d+", "", ir)
    # SPIR-V has no freeze; the values here are never undefined.
    for name, value in re.findall(r"(?m)^  (%\S+) = freeze .* (\S+)$", ir):
        ir = re.sub(rf"(?m)^  {re.escape(name)} = freeze .*\n", "", ir)
        ir = re.sub(re.escape(name) + r"(?![\w.$-])", value, ir)
    # LLVM narrows what a switch compares to as many bits as matter.
    for bits in set(re.findall(r"= trunc i(?:32|64) %\S+ to i(\d+)$", ir, re.MULTILINE)) - {"1", "8", "16", "32"}:
        ir = re.sub(rf"= trunc i32 (%\S+) to i{bits}$", rf"= and i32 \1, {2 ** int(bits) - 1}", ir, flags=re.MULTILINE)
        ir = re.sub(rf"(= trunc i64 %\S+) to i{bits}$", r"\1 to i32", ir, flags=re.MULTILINE)
        ir = re.sub(rf"= zext i{bits} (%\S+) to i32$", r"= or i32 \1, 0", ir, flags=re.MULTILINE)
        ir = re.sub(rf"(?<![\w.%])i{bits}(?= )", "i32", ir)
    # Mesa copies a constant table to each thread's memory. Metal has it in memory, as an argument is.
    tables = _TABLE.findall(ir)
    ir = _TABLE.sub("", ir)
    arguments = ""
    for i, (name, kind) in enumerate(tables):
        ir = re.sub(re.escape(name) + r"(?![\w.$])", f"%table.{i}", ir)
        arguments += f", {kind} addrspace(2)* %table.{i}"
    if arguments:
        ir = re.sub(
            r"(?m)^(define .*spir_kernel void @\w+\(.*?)(\) (?:local_unnamed_addr )?#)", rf"\1{arguments}\2", ir
        )
        ir = re.sub(r" !kernel_arg_\w+ !\d+", "", ir)
    return ir


def compiled(text: str, threadgroup: tuple[int, int, int], keep: Path | None = None) -> tuple[str, str]:
    """What Mesa prints of a Metal program: its statistics, and its instructions.

    Args:
        keep: where each step's result is written to; its suffix is replaced.

    Raises:
        AgxError: a step failed.
    """
    tool = asahi_clc()
    if tool is None:
        raise AgxError(f"found no compiler in {folder()}: run `make agx`")
    with tempfile.TemporaryDirectory() as temporary:
        base = keep or Path(temporary) / "kernel"
        at = {suffix: base.with_name(f"{base.name}.{suffix}") for suffix in ("metal", "cl", "ll", "bc", "spv")}
        at["metal"].write_text(text)
        at["cl"].write_text(opencl(text, threadgroup))
        _run(*_CLANG, "-o", at["ll"], at["cl"])
        at["ll"].write_text(translatable(at["ll"].read_text()))
        _run("llvm-as-15", "-opaque-pointers=0", at["ll"], "-o", at["bc"])
        _run(*_TRANSLATE, "-o", at["spv"], at["bc"])
        outputs = (Path(temporary) / "out.h", Path(temporary) / "out.c")
        done = _run(tool, at["spv"], *outputs, AGX_MESA_DEBUG="shaders,shaderdb,internal")
    if keep:
        keep.with_name(f"{keep.name}.agx").write_text(done.stdout)
    return done.stderr, done.stdout


def _run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    if done.returncode:
        raise AgxError(f"{Path(command[0]).name} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    return done
