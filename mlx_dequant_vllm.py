"""vLLM's plugin. It stands outside `mlx_dequant`, whose import raises where MLX has no backend."""


def plugin() -> None:
    """`mlx_dequant.bridges.install()` when vLLM starts on a Mac; silence where MLX or MPS is missing."""
    try:
        import mlx.core as mx
        import torch
    except ImportError:
        return
    if mx.metal.is_available() and torch.backends.mps.is_available():
        from mlx_dequant import bridges

        bridges.install()
