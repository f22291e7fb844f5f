"""mlx-lm's adapters on packed layers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mlx.nn as nn

from .. import needs


@lru_cache
def packed_lora() -> tuple[Any, Any]:
    """mlx-lm's adapters of a linear layer and of an embedding. Both `fuse` the sum into a dense float32 layer, also
    without `dequantize`: packed codes cannot hold it."""
    needs.mlx_lm("to_lora")
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear

    class PackedLoRALinear(LoRALinear):
        def fuse(self, dequantize: bool = False) -> nn.Linear:
            inner: Any = self.linear
            fused: Any = inner.dense()
            fused.weight = fused.weight + (self.scale * self.lora_b.T) @ self.lora_a.T
            return fused

    class PackedLoRAEmbedding(LoRAEmbedding):
        def fuse(self, dequantize: bool = False) -> nn.Embedding:
            inner: Any = self.embedding
            fused: Any = inner.dense()
            fused.weight = fused.weight + self.scale * self.lora_a @ self.lora_b
            return fused

    return PackedLoRALinear, PackedLoRAEmbedding
