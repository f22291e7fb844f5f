"""The machine and what is installed on it, for a report that is posted in public."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlx.core as mx

from .. import __version__
from ..backends import available_backends
from ..backends.host import threads
from ..backends.host.compiler import cache_folder, compiler

PACKAGES = ("numpy", "gguf", "torch", "vllm", "mlx-lm")
SETTINGS = ("MLX_DEQUANT_BACKEND", "MLX_DEQUANT_THREADS", "MLX_DEQUANT_CACHE", "CXX")


def environment() -> dict[str, str]:
    """Facts by name, each one line, without the name of the user."""
    facts = {
        "mlx-dequant": __version__,
        "system": _system(),
        "processor": f"{_processor()}, {threads.count()} threads",
        "mlx": f"{version('mlx')}, {_device()}",
        "compiler": _compiler(),
        "cache": str(cache_folder()),
        "packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _installed(name))),
        "settings": " ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ) or "none",
        "backends": ", ".join(available_backends()),
    }
    home = str(Path.home())
    return {name: fact.replace(home, "~") if len(home) > 1 else fact for name, fact in facts.items()}


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


def _compiler() -> str:
    tool = compiler()
    if tool is None:
        return "none was found"
    command = " ".join([Path(tool.command[0]).name, *tool.command[1:]])
    return f"{command} ({tool.version.partition(chr(10))[0]})"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
