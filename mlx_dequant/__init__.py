"""AWQ, GPTQ, compressed-tensors and GGUF weights on MLX: unpacked, multiplied with, and bridged to torch."""

try:
    import mlx.core  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ImportError(
        "mlx-dequant needs MLX with a backend. On Linux: pip install 'mlx-dequant[cpu]', "
        "or [cuda12] or [cuda13] for an NVIDIA GPU."
    ) from error

from importlib import import_module
from typing import Any

from ._version import VERSION as __version__
from .backends import available_backends, current_backend, use_backend
from .errors import FormatError
from .functions import dequantize_awq, dequantize_gguf, dequantize_gptq, dequantize_packed
from .loading import Checkpoint, load
from .products import linear, take
from .registry import Format, formats
from .weights import AWQWeight, GGUFWeight, GPTQWeight, PackedWeight, PackQuantizedWeight

__all__ = [
    "AWQWeight",
    "Checkpoint",
    "Format",
    "FormatError",
    "GGUFWeight",
    "GPTQWeight",
    "PackQuantizedWeight",
    "PackedWeight",
    "__version__",
    "available_backends",
    "current_backend",
    "dequantize_awq",
    "dequantize_gguf",
    "dequantize_gptq",
    "dequantize_packed",
    "formats",
    "linear",
    "load",
    "take",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    # These need more than mlx-dequant itself: mlx-lm, or time to import.
    if name in ("lm", "nn"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
