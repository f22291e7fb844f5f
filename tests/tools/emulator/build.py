"""Compiles programs and the runtime, each once: objects are kept by a hash of all that made them."""

from __future__ import annotations

import ctypes
import hashlib
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from mlx_dequant.backends.host.compiler import compiler
from mlx_dequant.disk_cache import cache_folder

HERE = Path(__file__).parent
SHIM = HERE / "msl"
CUDA_SHIM = HERE / "cuda"
RUNTIME = HERE / "runtime"

BASE = ("-std=c++17", "-fPIC", "-w", "-D_XOPEN_SOURCE=700", "-D_DARWIN_C_SOURCE")
KERNEL = (*BASE, "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fvisibility=hidden", "-shared", f"-I{SHIM}")
# What CUDA's programs are compiled with besides, and the instructions that they are linked with.
CUDA = (f"-I{CUDA_SHIM}", "-fsanitize=alignment")
INSTRUCTIONS = CUDA_SHIM / "instructions.cpp"

# By name: what compiles a kernel, what links a runner, and what the runtime has to know.
SANITIZERS = {
    "address": (
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize=vptr",
        "-fno-sanitize-recover=all",
        "-DEMULATOR_ADDRESS",
    ),
    "thread": ("-fsanitize=thread", "-DEMULATOR_THREAD"),
}


class BuildError(Exception):
    """The compiler refused a program."""


@cache
def _command() -> tuple[tuple[str, ...], str]:
    tool = compiler()
    if tool is None:
        raise BuildError("no C++ compiler was found")
    return tool.command, tool.version


@cache
def _made_of(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".h", ".cpp"))
    return "".join(path.name + path.read_text() for path in files)


def _kept(ingredients: list[str], make) -> Path:
    """The file that `make(path)` writes, from the cache when these ingredients made one before."""
    command, version = _command()
    key = hashlib.sha256("\0".join([*command, version, *ingredients]).encode()).hexdigest()[:32]
    folder = cache_folder() / "emulator"
    path = folder / key
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "made"
            make(made)
            made.replace(path)
    return path


def _compile(*words: str | Path, text: str | None = None) -> None:
    command = [*_command()[0], *map(str, words)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} said:\n{done.stderr[:4000]}")


@cache
def program(text: str, flags: tuple[str, ...] = (), sanitizer: str | None = None, cuda: bool = False) -> Path:
    """The shared object of a C++ program (`text.cpp`)."""
    shims, own, parts = [_made_of(SHIM)], KERNEL, []
    if cuda:
        shims, own, parts = [*shims, _made_of(CUDA_SHIM)], (*KERNEL, *CUDA), [_instructions(sanitizer)]
    own = (*own, *_watching(sanitizer), *flags)
    return _kept(
        [text, *shims, *own],
        lambda made: _compile(*own, *parts, "-x", "c++", "-", "-o", made, text=text),
    )


@cache
def _instructions(sanitizer: str | None) -> Path:
    flags = (*KERNEL, "-O2", *CUDA, *_watching(sanitizer), "-c")
    return _kept(
        [_made_of(SHIM), _made_of(CUDA_SHIM), *flags],
        lambda made: _compile(*flags, INSTRUCTIONS, "-o", made),
    )


def _watching(sanitizer: str | None) -> tuple[str, ...]:
    return ("-g1", *SANITIZERS[sanitizer]) if sanitizer else ()


@cache
def runtime() -> ctypes.CDLL:
    """The grid's runtime in this process."""
    flags = (*BASE, "-O2", "-shared")
    files = [RUNTIME / name for name in ("grid.cpp", "threadgroup.cpp", "fiber.cpp")]
    path = _kept([_made_of(SHIM), _made_of(RUNTIME), *flags], lambda made: _compile(*flags, *files, "-o", made))
    return ctypes.CDLL(str(path))


@cache
def runner(sanitizer: str) -> Path:
    """The runner whose process a sanitizer watches. The runtime itself is not watched."""
    link, *_, define = SANITIZERS[sanitizer]
    flags = (*BASE, "-O1", define)
    files = sorted(RUNTIME.glob("*.cpp"))

    def make(made: Path) -> None:
        objects = [made.with_name(f"{file.stem}.o") for file in files]
        for file, compiled in zip(files, objects, strict=True):
            _compile(*flags, "-c", file, "-o", compiled)
        _compile(link, "-rdynamic", *objects, "-ldl", "-o", made)
        made.chmod(0o700)

    return _kept([_made_of(SHIM), _made_of(RUNTIME), link, *flags], make)
