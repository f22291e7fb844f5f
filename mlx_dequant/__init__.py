"""AWQ, GPTQ, compressed-tensors and GGUF weights on MLX: dequantized, multiplied with, and bridged to torch.

MLX is imported on first use. The formats, the dispatcher and the kernel sources work without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import needs
from ._version import VERSION as __version__
from .errors import FormatError
from .registry import Format, formats

if TYPE_CHECKING:
    from .backends import available_backends, current_backend, use_backend
    from .functions import (
        dequantize_awq,
        dequantize_compressed_tensors,
        dequantize_gguf,
        dequantize_gptq,
        dequantize_packed,
    )
    from .loading import Checkpoint, load
    from .ops import gather_linear, linear, take
    from .weights import (
        AWQWeight,
        CompressedTensorsWeight,
        GGUFWeight,
        GPTQWeight,
        PackQuantizedWeight,
        QuantizedWeight,
        stack,
    )

# Names that need MLX, by their module.
_LAZY = {
    "backends": ("available_backends", "current_backend", "use_backend"),
    "functions": (
        "dequantize_awq",
        "dequantize_compressed_tensors",
        "dequantize_gguf",
        "dequantize_gptq",
        "dequantize_packed",
    ),
    "loading": ("Checkpoint", "load"),
    "ops": ("gather_linear", "linear", "take"),
    "weights": (
        "AWQWeight",
        "CompressedTensorsWeight",
        "GGUFWeight",
        "GPTQWeight",
        "PackQuantizedWeight",
        "QuantizedWeight",
        "stack",
    ),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}
# Modules that are also attributes of the package. `lm` needs mlx-lm.
_MODULES = ("backends", "bridges", "lm", "nn")

__all__ = [
    "AWQWeight",
    "Checkpoint",
    "CompressedTensorsWeight",
    "Format",
    "FormatError",
    "GGUFWeight",
    "GPTQWeight",
    "PackQuantizedWeight",
    "QuantizedWeight",
    "__version__",
    "available_backends",
    "current_backend",
    "dequantize_awq",
    "dequantize_compressed_tensors",
    "dequantize_gguf",
    "dequantize_gptq",
    "dequantize_packed",
    "formats",
    "gather_linear",
    "linear",
    "load",
    "stack",
    "take",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    module = name if name in _MODULES else _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if module != "bridges":  # on MPS, torch runs layers without MLX
        needs.mlx()
    loaded = import_module(f".{module}", __name__)
    return loaded if name == module else getattr(loaded, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
