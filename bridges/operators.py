"""The bridge as operators of torch, so that torch.compile, export, autograd, vmap and autocast work through it.

Each family has four, by the names of its module's tensors:

    torch.ops.mlx_dequant.awq_linear(x, qweight, scales, qzeros, group_size, bias)   x [..., in] to [..., out]
    torch.ops.mlx_dequant.awq_linear_transposed(y, ...)                              y [..., out] to [..., in]
    torch.ops.mlx_dequant.awq_dequantize(..., dtype)                                 the stored matrix
    torch.ops.mlx_dequant.awq_embedding(ids, ..., dtype)                             ids to [*ids.shape, in]

`gptq_`, `compressed_tensors_` and `gguf_` are the same with the arguments that `FAMILIES` names. A product has x's
dtype. A dtype of None is that of the scales, float16 for GGUF. Gradients flow to x and bias. A weight's gradient
raises FormatError, because packed weights are frozen. `torch.func.grad` and `jvp` raise NotImplementedError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..errors import FormatError
from . import targets
from .arguments import FLOATS, check_last_axis, check_product

NAMESPACE = "mlx_dequant"
AUTOCAST = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA", "mps": "AutocastMPS"}


@dataclass(frozen=True)
class Family:
    """What the operators of a family take.

    Attributes:
        name: of the family, and of the function that makes a weight.
        tensors: the schema of a weight's tensors.
        numbers: the schema of what else a weight depends on.
        features: (out, in) of the same arguments.
        layout: "KN" for a stored matrix [in, out], "NK" for [out, in].
    """

    name: str
    tensors: str
    numbers: str
    features: Callable[..., tuple[int, int]]
    layout: str

    @property
    def names(self) -> list[str]:
        return [part.split()[-1] for part in self.tensors.split(", ")]

    def weight(self, *weight: Any) -> Any:
        """The weight of a layer's tensors and numbers, made by whoever runs the layer."""
        return getattr(targets.of(weight[0]), self.name)(*weight)

    def dtype(self, *weight: Any) -> torch.dtype:
        """The type of dequantized weights: that of the scales."""
        return weight[1].dtype if isinstance(weight[1], torch.Tensor) else torch.float16


_FAMILIES = (
    Family(
        "awq",
        "Tensor qweight, Tensor scales, Tensor qzeros",
        "int group_size",
        lambda qweight, *_: (qweight.shape[1] * 8, qweight.shape[0]),
        "KN",
    ),
    Family(
        "gptq",
        "Tensor qweight, Tensor scales, Tensor qzeros, Tensor? g_idx",
        "int group_size, str zero_points, int bits",
        lambda qweight, *rest: (qweight.shape[1], qweight.shape[0] * 32 // rest[-1]),
        "KN",
    ),
    Family(
        "compressed_tensors",
        "Tensor weight_packed, Tensor weight_scale, Tensor? weight_zero_point, Tensor? weight_g_idx",
        "int out_features, int in_features, int group_size, int bits",
        lambda *weight: weight[4:6],
        "NK",
    ),
    Family(
        "gguf",
        "Tensor blocks",
        "int quant_type, int out_features, int in_features",
        lambda *weight: weight[2:4],
        "NK",
    ),
)
FAMILIES = {family.name: family for family in _FAMILIES}


def _linear(family: Family, x: Any, *arguments: Any) -> torch.Tensor:
    *weight, bias = arguments
    return targets.of(weight[0]).product(x, family.weight(*weight), bias, weight[0])


def _fake_linear(family: Family, x: Any, *arguments: Any) -> torch.Tensor:
    *weight, bias = arguments
    check_product(x, bias, weight[0])
    outputs, inputs = family.features(*weight)
    check_last_axis("x", x, inputs)
    return x.new_empty(*x.shape[:-1], outputs)


def _transposed(family: Family, y: Any, *weight: Any) -> torch.Tensor:
    return targets.of(weight[0]).input_gradient(y, family.weight(*weight), weight[0])


def _fake_transposed(family: Family, y: Any, *weight: Any) -> torch.Tensor:
    check_product(y, None, weight[0])
    outputs, inputs = family.features(*weight)
    check_last_axis("y", y, outputs)
    return y.new_empty(*y.shape[:-1], inputs)


def _dequantize(family: Family, *arguments: Any) -> torch.Tensor:
    *weight, dtype = arguments
    return targets.of(weight[0]).dense(family.weight(*weight), weight[0], dtype or family.dtype(*weight))


def _fake_dequantize(family: Family, *arguments: Any) -> torch.Tensor:
    *weight, dtype = arguments
    outputs, inputs = family.features(*weight)
    shape = (inputs, outputs) if family.layout == "KN" else (outputs, inputs)
    return weight[0].new_empty(shape, dtype=dtype or family.dtype(*weight))


def _embedding(family: Family, ids: Any, *arguments: Any) -> torch.Tensor:
    *weight, dtype = arguments
    return targets.of(weight[0]).rows(ids, family.weight(*weight), weight[0], dtype or family.dtype(*weight))


def _fake_embedding(family: Family, ids: Any, *arguments: Any) -> torch.Tensor:
    *weight, dtype = arguments
    inputs = family.features(*weight)[1]
    return ids.new_empty(*ids.shape, inputs, dtype=dtype or family.dtype(*weight))


@dataclass(frozen=True)
class Operation:
    """An operator of every family: its first argument ("" for none), its last one, what it does and what shows."""

    first: str
    last: str
    run: Callable[..., torch.Tensor]
    fake: Callable[..., torch.Tensor]


OPERATIONS = {
    "linear": Operation("Tensor x", "Tensor? bias", _linear, _fake_linear),
    "linear_transposed": Operation("Tensor y", "", _transposed, _fake_transposed),
    "dequantize": Operation("", "ScalarType? dtype", _dequantize, _fake_dequantize),
    "embedding": Operation("Tensor ids", "ScalarType? dtype", _embedding, _fake_embedding),
}
# The gradient of one is the other.
_GRADIENT = {"linear": "linear_transposed", "linear_transposed": "linear"}


def operator(family: str, operation: str) -> Any:
    """An operator, as `torch.ops` has it."""
    return getattr(torch.ops.mlx_dequant, f"{family}_{operation}").default


def _differentiable(family: str, operation: str) -> type[torch.autograd.Function]:
    """An operator with its gradient in x and bias. The gradient of a product is the transposed packed product."""
    names = FAMILIES[family].names
    first = int(bool(OPERATIONS[operation].first))
    other = _GRADIENT.get(operation, "")
    # What the other product takes after the weight: no bias.
    more = (None,) * bool(other and OPERATIONS[other].last)

    def check_frozen(found: str, expected: str, wanted: Iterable[bool]) -> None:
        for name, one in zip(names, wanted, strict=False):
            if one:
                raise FormatError(f"{name}: found {found}, expected {expected}: packed weights are frozen")

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> torch.Tensor:
            with torch._C._AutoDispatchBelowAutograd():
                return operator(family, operation)(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            end = first + len(names)
            ctx.save_for_backward(*inputs[first:end])
            ctx.save_for_forward(*inputs[first:end])
            ctx.numbers = inputs[end : len(inputs) - bool(OPERATIONS[operation].last)]
            ctx.shape, ctx.dtype = output.shape, output.dtype
            # None, not zeros, where there is no tangent: a packed weight must have none.
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *grad_outputs: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
            (gradient,) = grad_outputs
            needed = ctx.needs_input_grad
            check_frozen("requires_grad=True", "False", needed[first:])
            results: list[torch.Tensor | None] = [None] * len(needed)
            if gradient is None:
                return tuple(results)
            if other and needed[0]:
                results[0] = operator(family, other)(gradient, *ctx.saved_tensors, *ctx.numbers, *more)
            if operation == "linear" and needed[-1]:
                results[-1] = gradient.reshape(-1, gradient.shape[-1]).sum(0)
            return tuple(results)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
            check_frozen("a tangent", "none", [tangent is not None for tangent in tangents[first:]])
            last = tangents[len(tangents) - bool(OPERATIONS[operation].last) :]
            if tangents[0] is None:  # only bias has one
                return last[0].to(ctx.dtype).expand(ctx.shape).clone()
            return operator(family, operation)(tangents[0], *ctx.saved_tensors, *ctx.numbers, *last)

    return Differentiable


def _map(family: str, operation: str, info: Any, axes: tuple[int | None, ...], *arguments: Any) -> tuple[Any, int]:
    """vmap: a mapped x gets a leading axis; anything else is taken one by one."""
    run = operator(family, operation)
    if OPERATIONS[operation].first and all(axis is None for axis in axes[1:]):
        return run(arguments[0].movedim(axes[0], 0), *arguments[1:]), 0
    size = info.batch_size
    mapped = [a if axis is None else a.movedim(axis, 0) for a, axis in zip(arguments, axes, strict=True)]
    if not size:  # the result of zeros has the shape that one would have
        mapped = [a if axis is None else a.new_zeros(1, *a.shape[1:]) for a, axis in zip(mapped, axes, strict=True)]
    results = [
        run(*(a if axis is None else a[at] for a, axis in zip(mapped, axes, strict=True))) for at in range(size or 1)
    ]
    return torch.stack(results)[:size], 0


def _autocast(device: str, family: str, x: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """x and bias in autocast's dtype, as `nn.Linear` has them. The weight's tensors stay as they are."""
    dtype = torch.get_autocast_dtype(device)
    *weight, bias = arguments
    with torch.autocast(device, enabled=False):
        lowered = [each.to(dtype) if each is not None and each.dtype in FLOATS else each for each in (x, bias)]
        return operator(family, "linear")(lowered[0], *weight, lowered[1])


def _register(library: torch.library.Library, family: str, operation: str) -> None:
    row, kind = FAMILIES[family], OPERATIONS[operation]
    name = f"{family}_{operation}"
    schema = ", ".join(part for part in (kind.first, row.tensors, row.numbers, kind.last) if part)
    library.define(f"{name}({schema}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, partial(kind.run, row), "CompositeExplicitAutograd")
    qualified = f"{NAMESPACE}::{name}"
    torch.library.register_fake(qualified, partial(kind.fake, row), lib=library)
    library.impl(name, _differentiable(family, operation).apply, "Autograd")
    torch.library.register_vmap(qualified, partial(_map, family, operation), lib=library)
    if operation == "linear":
        for device, key in AUTOCAST.items():
            library.impl(name, partial(_autocast, device, family), key)


# Operators live as long as their library.
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
for _family in FAMILIES:
    for _operation in OPERATIONS:
        _register(LIBRARY, _family, _operation)
