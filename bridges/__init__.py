"""Bridges between torch and MLX. Importing this package does not import torch."""

from __future__ import annotations

__all__ = ["install", "invalidate", "uninstall"]


def install(patch: bool = False) -> None:
    """Lets the MPS path of vLLM pull request 36523 find MLX: registers `dequant_int4` and `dequant_gguf`.

    Installed packages of those names are left alone. If vLLM's `mps_dequant` module is loaded and has
    cached that its imports failed, the cache is cleared.

    Args:
        patch: also replace the functions of that module, importing it if needed, by those of
            `mlx_dequant.bridges.mps_dequant`. Then products use quantized weights, and every GGUF
            type has a kernel.

    Raises:
        ImportError: `patch` is True, and vLLM's module cannot be imported or has none of the functions.
    """
    from .vllm import install as run

    run(patch)


def uninstall() -> None:
    """Undoes `install`."""
    from .vllm import uninstall as run

    run()


def invalidate(layer: object) -> None:
    """Forgets the cached weights of a layer or tensor, after a write that torch does not count (`.data`)."""
    from .cache import invalidate as run

    run(layer)
