"""The machine and what is installed on it: what a benchmark's result rests on, and a report to post in public."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlx.core as mx

from .. import __version__
from ..backends import GPUS, available_backends, current_backend
from ..backends.host import threads
from ..backends.host.compiler import compiler
from ..disk_cache import cache_folder

PACKAGES = ("mlx", "numpy", "gguf", "torch", "vllm", "mlx-lm", "llama-cpp-python", "gptqmodel")
SETTINGS = (
    "MLX_DEQUANT_BACKEND",
    "MLX_DEQUANT_THREADS",
    "MLX_DEQUANT_PRECISION",
    "MLX_DEQUANT_CACHE",
    "MLX_DEQUANT_READABLE",
    "MLX_DEQUANT_TORCH",
    "MLX_DEQUANT_LOG",
    "CXX",
)


def environment() -> dict[str, Any]:
    """What a result rests on: the backend in use, its device, threads and compiler, MLX's BLAS, versions."""
    backend = current_backend()
    return {
        "device": str(mx.device_info().get("device_name", backend)) if backend in GPUS else _processor(),
        "backend": backend,
        "threads": threads.count(),
        "compiler": _compiler_version() if backend == "host" else "",
        "blas": blas(),
        "versions": packages(),
    }


def packages() -> dict[str, str]:
    """Versions of what a result may depend on, as far as it is installed."""
    installed = {name: found for name in PACKAGES if (found := _installed(name))}
    return {"mlx-dequant": __version__, "python": platform.python_version(), **installed}


def report() -> dict[str, str]:
    """Facts by name, each one line, without the name of the user."""
    facts = {
        "system": _system(),
        "processor": f"{_processor()}, {threads.count()} threads",
        "device": _device(),
        "compiler": compiler_line() or "none was found",
        "cache": str(cache_folder()),
        "versions": ", ".join(f"{name} {found}" for name, found in packages().items()),
        "settings": " ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ) or "none",
        "backends": ", ".join(available_backends()),
    }
    home = str(Path.home())
    return {name: fact.replace(home, "~") if len(home) > 1 else fact for name, fact in facts.items()}


def compiler_line() -> str:
    """The host's compiler: its command and version; empty where there is none."""
    tool = compiler()
    if tool is None:
        return ""
    command = " ".join([Path(tool.command[0]).name, *tool.command[1:]])
    return f"{command} ({_compiler_version()})"


def _compiler_version() -> str:
    tool = compiler()
    return tool.version.partition("\n")[0] if tool else ""


def blas() -> str:
    """File names of the BLAS libraries that MLX's CPU products run on; empty where that cannot be seen."""
    try:
        mapped = [Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines()]
    except OSError:
        return ""
    # NumPy and SciPy bring an OpenBLAS of their own, which MLX does not call.
    theirs = ("numpy.libs", "scipy.libs")
    names = {path.name for path in mapped if "blas" in path.name.lower() and path.parent.name not in theirs}
    return ", ".join(sorted(names))


def _system() -> str:
    mac = platform.mac_ver()[0]
    system = f"macOS {mac}" if mac else f"{platform.system()} {platform.release()}"
    return f"{system}, {platform.machine()}, Python {platform.python_version()}"


def _processor() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _device() -> str:
    device = mx.default_device()
    facts = mx.device_info()
    named = [str(facts[key]) for key in ("device_name", "architecture") if key in facts]
    memory = facts.get("memory_size", 0)
    if isinstance(memory, int) and memory:
        named.append(f"{memory / 2**30:.0f} GiB")
    return ", ".join([f"device {'gpu' if device == mx.gpu else 'cpu'}", *named])


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
