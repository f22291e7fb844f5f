"""Which layers of a model multiply the same x, and so can share a product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..weights.fused import alike, fuse

# Names that mlx-lm's models give to layers of one module that take the same x. A layer shares its first row's product.
SIBLINGS = (
    ("gate_proj", "up_proj"),
    ("q_proj", "q_a_proj", "k_proj", "v_proj", "kv_proj", "kv_a_proj_with_mqa", "gate_proj", "g_proj"),
    ("w1", "w3"),
    ("c_q", "c_k", "c_v"),
    ("c_fc_0", "c_fc_1"),
    ("attn_query", "attn_key", "attn_value"),
    ("mlp_gate", "mlp_linear"),
    ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
    ("in_proj_qkvz", "in_proj_ba"),
    ("index_q_proj", "index_k_proj"),
    ("linear_x", "linear_y"),
    ("query_key_value", "g_proj"),
    ("q_k_v_proj", "g_proj"),
)


def share_products(model: nn.Module, kind: type[nn.Module]) -> None:
    """Gives sibling layers whose weights are alike one product, in place, a module at a time.

    Args:
        kind: the class of the layers; those of a derived class stay as they are.
    """
    for path, module in model.named_modules():
        for names in list(_shared(module, kind)):
            layers: list[Any] = [module[name] for name in names]
            if fused := fuse([layer.weight for layer in layers], f"{path}: {', '.join(names)}"):
                for layer, weight in zip(layers, fused, strict=True):
                    layer.hold(weight)
                mx.eval([layer.parameters() for layer in layers])
                mx.clear_cache()  # of the separate arrays


def _shared(module: Any, kind: type[nn.Module]) -> Iterator[list[str]]:
    """Names of a module's layers whose weights can lie in one."""
    done: set[str] = set()
    for row in SIBLINGS:
        found: dict[Any, list[str]] = {}
        for name in row:
            if name not in done and type(module.get(name)) is kind:
                found.setdefault(alike(module[name].weight), []).append(name)
        for names in found.values():
            if len(names) > 1:
                done.update(names)
                yield names
