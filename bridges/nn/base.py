"""What layers of torch that hold a checkpoint's quantized tensors share.

The tensors are buffers, frozen: `requires_grad_` and optimizers leave them alone, and `half()` or `to(dtype)` keeps
their types. A bias is a parameter. Products, gradients, torch.compile and export go through the operators of
`mlx_dequant.bridges.operators`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ...errors import FormatError
from .. import targets
from ..operators import operator

if TYPE_CHECKING:
    import mlx.core as mx

    from ...weights import QuantizedWeight


class Packed(nn.Module):
    """What holds quantized tensors: buffers that keep their types."""

    def _hold(self, device: Any, **tensors: tuple[torch.dtype, tuple[int, ...]] | None) -> None:
        for name, kind in tensors.items():
            tensor = None if kind is None else torch.zeros(kind[1], dtype=kind[0], device=device)
            self.register_buffer(name, tensor)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, buffer in self._buffers.items():
            if buffer is not None and name != "g_idx" and tuple(buffer.shape) == (0,):
                raise FormatError(
                    f"{prefix}{name}: found released codes, expected the layer's own: load the model anew"
                )
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        quantized = {id(buffer) for buffer in self._buffers.values()}

        def same_type(tensor: torch.Tensor) -> torch.Tensor:
            result = fn(tensor)
            kept = id(tensor) not in quantized or result.dtype == tensor.dtype
            return result if kept else tensor.to(result.device)

        return super()._apply(same_type, recurse)


class PackedLinear(Packed, nn.Linear):
    """A linear layer. It is an `nn.Linear`, so that adapters (LoRA) are put on it, but has no dense weight."""

    family: ClassVar[str]
    # From the names of a weight's arrays to the layer's.
    arrays: ClassVar[Mapping[str, str]]

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: Any):
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device)) if bias else None
        )

    @staticmethod
    def settings(weight: QuantizedWeight) -> dict[str, Any]:
        """What the class is made with for a weight of its family."""
        raise NotImplementedError

    def operands(self) -> tuple[Any, ...]:
        """The weight, as the operators of its family take it."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] float16, bfloat16 or float32 to [..., out] in x's type."""
        return operator(self.family, "linear")(x, *self.operands(), self.bias)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The dense weight [out, in] of an `nn.Linear`; in the scales' type by default, float16 for GGUF."""
        stored = operator(self.family, "dequantize")(*self.operands(), dtype)
        return stored if self.family in ("compressed_tensors", "gguf") else stored.T

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def reset_parameters(self) -> None:
        """Nothing: packed weights come from a checkpoint."""

    def _take(self, weight: QuantizedWeight, device: Any) -> None:
        """Takes a weight's arrays as buffers. The weight is used as it is: nothing is copied where memory is shared."""
        for name, ours in self.arrays.items():
            array = weight.arrays[name]
            if array is not None:
                self._buffers[ours] = crossed(array, device)
        targets.adopt(self.family, self.operands(), weight)


class GroupLinear(PackedLinear):
    """A layer with scales of groups."""

    codes: ClassVar[str] = "qweight"

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The codes, for code that asks a linear layer's weight for its device."""
        return getattr(self, self.codes)


def crossed(array: mx.array | None, device: Any) -> torch.Tensor:
    """An array of MLX as a tensor. Layers of torch tensors need no MLX, so it is imported here."""
    from ..torch import to_torch

    assert array is not None
    return to_torch(array, device)
