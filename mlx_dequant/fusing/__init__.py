"""What layers of a model can share: a product, and what MLX has traced."""

from __future__ import annotations

import mlx.nn as nn

from .. import backends
from .decoder_layers import replay_decoder_layers
from .feed_forward import replay_feed_forward
from .siblings import share_products


def fuse_layers(model: nn.Module, linear: type[nn.Module], packed: type[nn.Module]) -> None:
    """Gives sibling layers one product, in place, and does what `replay_layers` does.

    Args:
        linear: the class of layers that may share a product.
        packed: the class of all layers whose weights stay quantized.
    """
    share_products(model, linear)
    replay_layers(model, packed)


def replay_layers(model: nn.Module, packed: type[nn.Module]) -> None:
    """On a GPU, gives layers that are alike one trace of MLX's, in place. No array is copied.

    Args:
        packed: as for `fuse_layers`.
    """
    if backends.on_gpu():
        replay_feed_forward(model, packed)
        replay_decoder_layers(model, packed)
