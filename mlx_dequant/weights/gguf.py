"""Weights of GGUF files. The blocks are those of ggml-common.h, byte for byte as in the file."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, SupportsIndex

import mlx.core as mx

from .. import dtypes
from ..encoded import EncodedMatrix
from ..errors import FormatError
from ..registry import formats, gguf_format
from . import check
from .base import QuantizedWeight


class GGUFWeight(QuantizedWeight):
    """A tensor of a GGUF file: [..., out, in] weights in blocks along `in`.

    Args:
        blocks: uint8 [..., row bytes]; leading axes (experts) are allowed.
        type: a name ("Q4_K", any case), a `gguf.GGMLQuantizationType`, or its number.
        shape: shape in weights, the longest stride first; by default that of `blocks`, with the last
            axis counted in weights. With a shape, `blocks` may be any array of the right size.

    Raises:
        FormatError: the type is unknown, or `blocks` does not hold whole rows of it.
    """

    family = "gguf"

    def __init__(self, blocks: Any, type: str | int, shape: Sequence[int] | None = None):
        known_kind = isinstance(type, (str, SupportsIndex))  # pyright: ignore[reportUnnecessaryIsInstance]
        form = gguf_format(type) if known_kind else None
        if form is None:
            known = ", ".join(row.title for row in formats().values() if row.family == "gguf")
            raise FormatError(f"type: found {type!r}, expected one of {known}")
        if isinstance(blocks, mx.array) and blocks.ndim == 1:
            # Copies a slice, which may start at any byte: GPUs load 16 bytes at once, from multiples of 16.
            blocks = blocks + mx.zeros(1, blocks.dtype)
        blocks = check.array("blocks", blocks)
        if blocks.dtype != mx.uint8:
            raise FormatError(f"blocks: found {blocks.dtype}, expected uint8 (the file's bytes)")
        if blocks.ndim == 0:
            raise FormatError("blocks: found no axes, expected [..., row bytes]")

        if shape is None:
            row_bytes = blocks.shape[-1]
            if row_bytes % form.bytes:
                raise FormatError(
                    f"blocks: found rows of {row_bytes} bytes, expected a multiple of {form.bytes} ({form.title})"
                )
            full = (*blocks.shape[:-1], row_bytes // form.bytes * form.weights)
        else:
            full = check.lengths("shape", shape)
            if not full or min(full) < 0 or full[-1] % form.weights:
                raise FormatError(
                    f"shape: found {full}, expected lengths, the last a multiple of {form.weights} ({form.title})"
                )
            for length in full:
                check.extent("shape: axis", length)
            size = form.bytes
            for length in (*full[:-1], full[-1] // form.weights):
                size *= length
            if blocks.size != size:
                raise FormatError(f"blocks: found {blocks.size} bytes, expected {size} for {full} {form.title}")
        columns = full[-1]
        rows = blocks.size // max(columns // form.weights * form.bytes, 1)
        check.extent("blocks: columns", columns)
        check.extent("blocks: rows", rows)
        experts = prod(full[:-2]) if len(full) > 2 else 0
        stack = (experts, rows // experts) if experts else (rows,)
        matrix = EncodedMatrix(
            arrays={"blocks": blocks.reshape(*stack, -1) if blocks.size else blocks},
            format=form,
            rows=prod(full[:-1]),
            columns=columns,
            loader_params={"blocks_per_row": columns // form.weights},
            experts=experts,
        )
        self._set(matrix, full, dtypes.of(form.stored or "float16"))

    @property
    def settings(self) -> dict[str, Any]:
        return {"type": self.format.name, "shape": list(self.shape)}
