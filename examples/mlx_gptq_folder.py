"""Layers out of a GPTQ, AWQ or compressed-tensors folder, in a model of one's own.

    python examples/mlx_gptq_folder.py FOLDER

Takes the first block's feed-forward layers of a Llama or Qwen.
"""

import sys

import mlx.core as mx
import mlx.nn as nn

import mlx_dequant as mxd
from mlx_dequant.nn import pack_model

BLOCK = "model.layers.0.mlp"
LAYERS = ("gate_proj", "up_proj", "down_proj")


class FeedForward(nn.Module):
    def __init__(self, dims: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(dims, hidden, bias=False)
        self.up_proj = nn.Linear(dims, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dims, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


# A weight is read from its file when it is asked for.
weights = mxd.load(sys.argv[1]).weights
packed = {name: weights[f"{BLOCK}.{name}"] for name in LAYERS}
for name, weight in packed.items():
    print(f"{name}: {weight}")

up = packed["up_proj"]
layer = pack_model(FeedForward(up.in_features, up.out_features), packed)
x = mx.random.normal((3, up.in_features))
y = layer(x)
print(f"x {x.shape} gives {y.shape} {y.dtype}")

# A gradient goes through packed layers, and unpacks none.
gradient = mx.grad(lambda x: layer(x).square().mean())(x)
print(f"gradient {gradient.shape}, largest {mx.abs(gradient).max().item():.3g}")
