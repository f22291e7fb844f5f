"""vLLM's plugin. It stands outside `mlx_dequant`, whose import raises where MLX has no backend."""

import logging


def plugin() -> None:
    """`mlx_dequant.bridges.install()` when vLLM starts on a Mac; silence where MLX or MPS is missing.

    It never raises: what else goes wrong is a warning, because vLLM can start without it.
    """
    try:
        _install()
    except ImportError:
        return
    except Exception as error:
        logging.getLogger("mlx_dequant").warning("mlx-dequant is not installed into vLLM: %r", error)


def _install() -> None:
    import mlx.core as mx
    import torch

    if mx.metal.is_available() and torch.backends.mps.is_available():
        from mlx_dequant import bridges

        bridges.install()
