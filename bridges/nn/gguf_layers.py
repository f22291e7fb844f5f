"""A linear layer and an embedding of torch that hold a GGUF tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ...errors import FormatError
from ...registry import formats, gguf_format
from .. import targets
from ..operators import operator
from .base import Packed, PackedLinear, crossed

if TYPE_CHECKING:
    from ...weights import QuantizedWeight


class GGUFLinear(PackedLinear):
    """y = x Wᵀ + bias with a GGUF tensor: weight uint8 [out, row bytes], the file's blocks.

    Args:
        quant_type: a name ("Q4_K", any case) or GGUF's number of the type.
        dtype: type of the bias.
    """

    family = "gguf"
    arrays: ClassVar = {"blocks": "weight"}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        quant_type: str | int = "Q4_K",
        dtype: torch.dtype = torch.float16,
        device: Any = None,
    ):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.quant_type, row_bytes = _blocks(quant_type, in_features)
        self._hold(device, weight=(torch.uint8, (out_features, row_bytes)))

    @staticmethod
    def settings(weight: QuantizedWeight) -> dict[str, Any]:
        return {"quant_type": weight.format.ggml_type}

    def operands(self) -> tuple[Any, ...]:
        return self.weight, self.quant_type, self.out_features, self.in_features


class GGUFEmbedding(Packed):
    """Rows of a GGUF tensor: weight uint8 [num_embeddings, row bytes].

    Args:
        quant_type: a name ("Q4_K", any case) or GGUF's number of the type.
        dtype: type of the rows: float16, bfloat16 or float32.
        scale: what the rows are multiplied by, in `dtype`, as Gemma's are.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        quant_type: str | int = "Q4_K",
        dtype: torch.dtype = torch.float16,
        scale: float = 1.0,
        device: Any = None,
    ):
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.dtype, self.scale = num_embeddings, embedding_dim, dtype, scale
        self.quant_type, row_bytes = _blocks(quant_type, embedding_dim)
        self._hold(device, weight=(torch.uint8, (num_embeddings, row_bytes)))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids of any shape to [*ids.shape, embedding_dim]."""
        shape = self.num_embeddings, self.embedding_dim
        rows = operator("gguf", "embedding")(ids, self.weight, self.quant_type, *shape, self.dtype)
        return rows if self.scale == 1 else rows * torch.tensor(self.scale, dtype=self.dtype, device=rows.device)

    def as_linear(self) -> GGUFLinear:
        """The output layer of a model that ties it to this embedding: on the same tensor, without a copy."""
        layer = GGUFLinear(self.embedding_dim, self.num_embeddings, quant_type=self.quant_type, device="meta")
        layer._buffers["weight"] = self.weight
        return layer

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


def packed_embedding(weight: QuantizedWeight, dtype: torch.dtype, scale: float, device: Any) -> GGUFEmbedding:
    """The embedding of a GGUF weight."""
    shape = weight.out_features, weight.in_features
    layer = GGUFEmbedding(*shape, weight.format.ggml_type, dtype, scale, device="meta")
    layer._buffers["weight"] = crossed(weight.arrays["blocks"], device)
    targets.adopt("gguf", (layer.weight, layer.quant_type, *shape), weight)
    return layer


def _blocks(quant_type: str | int, columns: int) -> tuple[int, int]:
    """GGUF's number of a type, and the bytes of a row."""
    form = gguf_format(quant_type)
    if form is None:
        known = ", ".join(row.title for row in formats().values() if row.family == "gguf")
        raise FormatError(f"quant_type: found {quant_type!r}, expected one of {known}")
    if columns % form.weights:
        raise FormatError(f"in_features: found {columns}, expected a multiple of {form.weights} ({form.title})")
    return form.ggml_type, columns // form.weights * form.bytes
