"""Layers of which a process has a part, and mlx-lm's `model.shard` on packed layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, wraps
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers import distributed

from ..errors import FormatError
from ..nn import PackedLayer, PackedLinear
from ..weights.cut import COLUMNS, ROWS, Cut, of_vector
from .rebind import rebind

# What MLX calls a cut of rows, and of columns.
SHARDINGS = {"all-to-sharded": ROWS, "sharded-to-all": COLUMNS}


class Part:
    """A layer of which this process has a part, and that does not communicate."""

    group: mx.distributed.Group

    def to_lora(self, *args: Any, **kwargs: Any) -> nn.Module:
        raise self._refused("an adapter")

    def to_quantized(self, *args: Any, **kwargs: Any) -> nn.Module:
        raise self._refused("MLX's own quantization")

    def dense(self, dtype: mx.Dtype = mx.float32) -> nn.Module:
        """The same part with dequantized weights."""
        whole: Any = super()
        return become(whole.dense(dtype), type(self).kind, self.group)  # type: ignore[attr-defined]

    def _refused(self, what: str) -> FormatError:
        return FormatError(f"{type(self).__name__}: found a part of a layer, expected a whole one for {what}")


class Spread(Part):
    """Its outputs are this process's rows. The gradient of x is summed over the processes."""

    def __call__(self, x: mx.array, *rest: Any, **named: Any) -> mx.array:
        layer: Any = super()
        summed: Any = distributed.sum_gradients(self.group)
        return layer.__call__(summed(x), *rest, **named)


class Summed(Part):
    """Its inputs are this process's columns. Its outputs are sums over the processes."""

    def __call__(self, x: mx.array, *rest: Any, **named: Any) -> mx.array:
        layer: Any = super()
        return mx.distributed.all_sum(layer.__call__(x, *rest, **named), group=self.group)


def become(layer: Any, kind: type[Part], group: mx.distributed.Group) -> Any:
    """The layer itself, of the class that communicates as `kind` does."""
    layer.__class__ = _variant(type(layer), kind)
    layer.group = group
    return layer


@cache
def _variant(base: type[nn.Module], kind: type[Part]) -> type[nn.Module]:
    return type(f"{kind.__name__}{base.__name__}", (kind, base), {"kind": kind})


def teach_mlx() -> None:
    """Makes `shard_linear` and `shard_inplace` of mlx.nn, which mlx-lm's `model.shard` calls, know packed layers."""
    linear: Any = distributed.shard_linear
    inplace: Any = distributed.shard_inplace
    if hasattr(linear, "__wrapped__"):
        return

    @wraps(linear)
    def shard_linear(
        module: nn.Module, sharding: str, *, segments: Any = 1, group: mx.distributed.Group | None = None
    ) -> nn.Module:
        if not isinstance(module, PackedLayer):
            return linear(module, sharding, segments=segments, group=group)
        group = group or mx.distributed.init()
        if not isinstance(module, PackedLinear) or isinstance(module, Part):
            raise FormatError(f"shard_linear: found {type(module).__name__}, expected a whole PackedLinear")
        cut = _cut(module, sharding, segments, group)
        kind = Spread if cut.axis == ROWS else Summed
        bias = module.get("bias")
        if bias is not None and cut.axis == ROWS:
            bias = of_vector(bias, cut)
        elif bias is not None and group.rank():
            bias = None  # the first process adds it
        return become(PackedLinear(module.weight.cut(cut), bias), kind, group)

    @wraps(inplace)
    def shard_inplace(
        module: nn.Module, sharding: Any, *, segments: Any = 1, group: mx.distributed.Group | None = None
    ) -> None:
        if not isinstance(module, PackedLayer):
            inplace(module, sharding, segments=segments, group=group)
            return
        group = group or mx.distributed.init()
        cut = _cut(module, sharding, segments, group)
        module.hold(module.weight.cut(cut))
        if "bias" in module and cut.axis == ROWS:
            module["bias"] = of_vector(module["bias"], cut)
        become(module, Part, group)

    rebind((linear, shard_linear), (inplace, shard_inplace))


def _cut(layer: PackedLayer, sharding: Any, segments: Any, group: mx.distributed.Group) -> Cut:
    """An equal part of each segment, as MLX cuts arrays.

    Raises:
        FormatError: the segments do not divide.
    """
    if not isinstance(sharding, str) or sharding not in SHARDINGS:
        raise FormatError(f"sharding: found {sharding!r}, expected {' or '.join(SHARDINGS)} for a packed layer")
    weight, size, rank = layer.weight, group.size(), group.rank()
    if isinstance(layer, Part):
        raise FormatError(f"shard_inplace: found {weight!r}, a part already, expected a whole layer")
    axis = SHARDINGS[sharding]
    length = weight.out_features if axis == ROWS else weight.in_features
    ranges: list[tuple[int, int]] = []
    for first, end in _segments(length, segments):
        if (end - first) % size:
            raise FormatError(
                f"{weight!r}: found {end - first} {axis}, expected a multiple of {size}, the number of processes "
                "(mlx_dequant.lm.load(..., group=group) gives processes uneven parts)"
            )
        each = (end - first) // size
        ranges.append((first + rank * each, first + (rank + 1) * each))
    return Cut(axis, length, tuple(ranges))


def _segments(length: int, segments: int | Sequence[float]) -> list[tuple[int, int]]:
    """MLX's segments: a number of equal ones, or where they end, as indices or as shares of the whole."""
    if isinstance(segments, int):
        ends = [length * at // segments for at in range(segments + 1)]
    else:
        inner = [int(end if isinstance(end, int) else end * length) for end in segments]
        ends = [0, *inner, length]
    return list(pairwise(ends))
