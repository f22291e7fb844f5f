"""Compiles the host backend's loops with the machine's C++ compiler, into a private cache."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...disk_cache import cache_folder, private_folder, refuse_others
from ...log import logger

FLAGS = ("-std=c++17", "-O3", "-fno-exceptions", "-fno-rtti", "-fPIC", "-shared", "-w")
PATIENCE = 120  # seconds for one compilation; the largest takes about one


@dataclass(frozen=True)
class Compiler:
    """A command that compiles C++, and the version that it prints."""

    command: tuple[str, ...]
    version: str

    @property
    def flags(self) -> tuple[str, ...]:
        if "ziglang" in self.command:
            # zig compiles for this machine by default. Without the flag it would build a C++ library, for minutes.
            return (*FLAGS, "-nostdlib++")
        return (*FLAGS, "-mcpu=native" if platform.machine() == "arm64" else "-march=native")


@cache
def compiler() -> Compiler | None:
    """The first of $CXX, clang++, g++ and `ziglang` that works; None if none does."""
    cxx = os.environ.get("CXX")
    candidates = [shlex.split(cxx)] if cxx else []
    candidates += [["clang++"], ["g++"]]
    if importlib.util.find_spec("ziglang"):
        candidates.append([sys.executable, "-m", "ziglang", "c++"])
    for command in candidates:
        path = shutil.which(command[0])
        if path is None:
            continue
        if _asks_to_install(path):
            logger.info("compiler: %s belongs to Apple's developer tools, which are not installed", path)
            continue
        try:
            answer = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.info("compiler: %s does not work: %s", shlex.join(command), error)
            continue
        if answer.returncode == 0:
            logger.info("compiler: %s, %s", shlex.join(command), answer.stdout.partition("\n")[0])
            return Compiler(tuple(command), answer.stdout.strip())
        logger.info("compiler: %s --version ended with status %d", shlex.join(command), answer.returncode)
    return None


def _asks_to_install(path: str) -> bool:
    """Whether it is a stand-in of macOS that opens a dialog, since Apple's developer tools are not installed."""
    if sys.platform != "darwin" or not path.startswith("/usr/bin/"):
        return False
    return subprocess.run(["/usr/bin/xcode-select", "-p"], capture_output=True).returncode != 0


@cache
def _processor() -> str:
    """The processor's features, on which -march=native depends."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string", "hw.cpufamily"]
        return subprocess.run(command, capture_output=True, text=True).stdout
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor()


def compiled(name: str, text: str, contract: bool) -> Path | None:
    """The shared object of a loop, from the cache or compiled; None, after a warning, if that fails.

    Without `contract`, no multiplication is fused with an addition, so every machine gives the same bits.
    """
    tool = compiler()
    if tool is None:
        return None
    try:
        return build(name, text, [*tool.flags, f"-ffp-contract={'fast' if contract else 'off'}"])
    except (OSError, subprocess.SubprocessError) as error:
        warn_of_slowness(name, error)
        return None


def build(name: str, text: str, flags: list[str], libraries: tuple[str, ...] = (), others: str = "") -> Path:
    """The shared object of a C++ text, from the cache or compiled.

    A cached file is used only if nobody but this user can write to it and its checksum is right.

    Args:
        libraries: what it is linked with.
        others: what the result depends on besides.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be compiled.
    """
    tool = compiler()
    assert tool is not None
    identity = "\0".join([text, *tool.command, tool.version, *flags, *libraries, others, _processor()])
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    path = private_folder(cache_folder()) / f"{key}.so"
    if _is_complete(path):
        logger.debug("%s: from the cache, %s", name, path)
        return path
    begin = time.perf_counter()
    built = _compile([*tool.command, *flags], text, path, libraries)
    logger.info("%s: compiled in %.1f s, %s", name, time.perf_counter() - begin, path)
    return built


def trial() -> str:
    """Why no program can be compiled, written into the cache and loaded; "" if one can."""
    tool = compiler()
    if tool is None:
        return "no C++ compiler was found"
    text = 'extern "C" int answer() { return 42; }\n'
    try:
        with tempfile.TemporaryDirectory(dir=private_folder(cache_folder())) as folder:
            path = _compile([*tool.command, *tool.flags], text, Path(folder) / "trial.so", ())
            answer = ctypes.CDLL(str(path)).answer()
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if answer == 42 else f"a program gave {answer}, expected 42"


def warn_of_slowness(name: str, error: Exception) -> None:
    """Warns that the reference does the work of a loop."""
    message = f"{name} could not be compiled and runs slowly instead: {error}"
    if isinstance(error, OSError) and "MLX_DEQUANT_CACHE" not in message:
        message += " (MLX_DEQUANT_CACHE names the folder for what is compiled)"
    logger.warning(message)
    warnings.warn(f"mlx-dequant: {message}", RuntimeWarning, stacklevel=3)


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_complete(path: Path) -> bool:
    """Whether the cache has `path` with the right checksum."""
    if not path.exists() or not _checksum_path(path).exists():
        return False
    refuse_others(path)
    refuse_others(_checksum_path(path))
    return hashlib.sha256(path.read_bytes()).hexdigest() == _checksum_path(path).read_text()


def _compile(command: list[str], text: str, path: Path, libraries: tuple[str, ...]) -> Path:
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        source = Path(work) / "program.cpp"
        built = Path(work) / "program.so"
        source.write_text(text)
        done = subprocess.run(
            [*command, str(source), *libraries, "-o", str(built)], capture_output=True, text=True, timeout=PATIENCE
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"{command[0]} said: {done.stderr.strip()[-2000:]}")
        built.chmod(0o600)
        checksum = Path(work) / "sum"
        checksum.write_text(hashlib.sha256(built.read_bytes()).hexdigest())
        checksum.chmod(0o600)
        built.replace(path)
        checksum.replace(_checksum_path(path))
    return path
