"""Tensors of big-endian files (s390x, AIX), as little-endian files have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .gguf_types import TensorType

# Where a block has 16-bit numbers, by the type: the types that gguf-py's gguf-convert-endian knows.
_HALVES: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q6_K": (208,),
    "MXFP4": (),
    "NVFP4": (),
}


def little_endian(flat: NDArray[np.uint8], kind: TensorType, where: FormatError) -> NDArray[np.uint8]:
    """uint8 [bytes] with every number's bytes in little-endian order: a copy.

    Raises:
        FormatError: the order of bytes within the type's blocks is not known.
    """
    if kind.weights == 1:
        return np.ascontiguousarray(flat.reshape(-1, kind.bytes)[:, ::-1]).reshape(-1)
    if kind.title not in _HALVES:
        known = ", ".join(("plain numbers", *_HALVES))
        raise FormatError(f"{where}: found {kind.title} in a big-endian file, expected one of {known}")
    blocks = flat.reshape(-1, kind.bytes).copy()
    for at in _HALVES[kind.title]:
        blocks[:, [at, at + 1]] = blocks[:, [at + 1, at]]
    return blocks.reshape(-1)
