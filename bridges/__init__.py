"""Torch on this side, MLX on the other. Importing this package does not import torch."""

from __future__ import annotations

__all__ = ["install", "invalidate", "uninstall"]


def install(patch: bool = False) -> None:
    """Lets the MPS path of vLLM pull request 36523 find MLX: registers `dequant_int4` and `dequant_gguf`.

    Installed packages of those names are left alone. Where vLLM's `mps_dequant` module is loaded and
    remembers that its imports failed, it forgets.

    Args:
        patch: also replace the functions of that module (imported if need be) by those of
            `mlx_dequant.bridges.mps_dequant`: products then use packed weights, and every GGUF type
            runs on a kernel.

    Raises:
        ImportError: `patch` is asked for, and vLLM's module cannot be imported or has none of the functions.
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
