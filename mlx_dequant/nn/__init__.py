"""Layers whose weights stay quantized, for models written with `mlx.nn`.

A layer's parameters are the quantized arrays, by the names in their files ("blocks"; "qweight",
"scales", ...), so that counting bytes, saving and loading work as for any layer; and "mlx_dequant", a text of
some bytes that says what they are (`mlx_dequant.weights.stored`). These parameters are never trained, but
adapters on top of them are.

Assign a parameter to change it (`layer.scales = scales`, `layer.update(...)`): a layer does not notice what is written
into the array that it has (`layer.scales[0] = 0`). A function of `mx.compile` keeps the quantized arrays that a layer
had when it was traced, also where `inputs` names its state.
"""

from .layers import PackedEmbedding, PackedLayer, PackedLinear, PackedSwitchLinear, rows
from .packing import fuse_layers, pack_model, packable, replay_layers

__all__ = [
    "PackedEmbedding",
    "PackedLayer",
    "PackedLinear",
    "PackedSwitchLinear",
    "fuse_layers",
    "pack_model",
    "packable",
    "replay_layers",
    "rows",
]
