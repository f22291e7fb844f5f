"""Bridges between torch and MLX. Importing this package does not import torch."""

from __future__ import annotations

from .. import needs

__all__ = ["install", "invalidate", "release", "uninstall"]


def install(patch: bool = False) -> None:
    """Lets the MPS path of vLLM pull request 36523 find MLX: registers `dequant_int4` and `dequant_gguf`.

    Installed packages of those names are left alone. If vLLM's `mps_dequant` module is loaded and has
    cached that its imports failed, the cache is cleared.

    Args:
        patch: also replace the functions of that module, importing it if needed, by those of
            `mlx_dequant.bridges.mps_dequant`. Then products use quantized weights, and every GGUF
            type has a kernel. If vLLM has `GGUFLinearMethod`, its layers multiply packed too.

    Raises:
        ImportError: `patch` is True, and vLLM's module cannot be imported or has none of the functions.
    """
    needs.torch(__name__)
    from .vllm import install as run

    run(patch)


def uninstall() -> None:
    """Undoes `install`."""
    needs.torch(__name__)
    from .vllm import uninstall as run

    run()


def invalidate(layer: object) -> None:
    """Forgets the cached weights of a layer or tensor, after a write that torch does not count (`.data`)."""
    needs.torch(__name__)
    from .cache import invalidate as run

    run(layer)


def release(layer: object) -> None:
    """Drops torch's copy of the codes of a layer or tensor that has been used: MLX's copy serves from then on.

    The tensors of codes (`qweight`, `weight_packed`) get the shape (0,), so that other code that reads them fails.
    Scales and g_idx stay, and may change. A layer that has not been used since its codes were written stays as it is:
    all codes are compared. New codes that are assigned later count. A layer that was released multiplies eagerly, not
    in torch.compile, and cannot be saved or moved.
    """
    needs.torch(__name__)
    from .cache import release as run

    run(layer)
