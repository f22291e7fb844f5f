"""Tensors that some GGUF files have joined, and their parts, still packed: a row consists of whole blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..loading import GGUFFile
from ..weights import GGUFWeight
from ..weights.cut import ROWS, Cut

# In the order of their rows.
QUERIES_KEYS_VALUES = ("attn_q", "attn_k", "attn_v")
GATES_UPS = ("ffn_gate_exps", "ffn_up_exps")
JOINED = {**dict.fromkeys(QUERIES_KEYS_VALUES, "attn_qkv"), **dict.fromkeys(GATES_UPS, "ffn_gate_up_exps")}


class Tensors:
    """A file's tensors.

    Attributes:
        unused: the names of those that are not read yet.
    """

    def __init__(self, file: GGUFFile, config: Mapping[str, Any], names: Iterable[str]):
        self._file, self._config, self.unused = file, config, set(names)

    def __contains__(self, name: str) -> bool:
        return name in self._file.tensors

    def __call__(self, name: str, cut: Cut | None = None) -> GGUFWeight:
        found, tensor = weight(self._file, name, self._config, cut)
        self.unused.discard(tensor)
        return found


def weight(file: GGUFFile, tensor: str, config: Mapping[str, Any], cut: Cut | None = None) -> tuple[GGUFWeight, str]:
    """A tensor, or its rows of the one that some files have instead; and the name of the tensor read.

    With a cut, a part of it; of a joined one the part is cut after it is read.

    Raises:
        FormatError: the file has neither, or the joined one has another shape.
    """
    if tensor in file.tensors:
        return file.weight(tensor, cut), tensor
    layer, part, kind = ("", *tensor.rsplit(".", 2))[-3:]
    joined = f"{layer}.{JOINED.get(part)}.{kind}"
    if joined not in file.tensors:
        raise FormatError(f"{file.path.name}: tensor {tensor!r}: not found")
    whole = part in QUERIES_KEYS_VALUES
    found = file.weight(joined, None if whole else _half(file, joined, part))
    try:
        found = _rows(found, part, config) if whole else found
        return found if cut is None else found.cut(cut), joined
    except FormatError as error:
        raise FormatError(f"{file.path.name}: tensor {joined!r}: {error}") from None


def picked(whole: GGUFWeight, rows: NDArray[np.int64]) -> GGUFWeight:
    """Rows of a weight, in this order.

    Raises:
        FormatError: it has another number of rows than these ask for.
    """
    if int(rows.max()) >= whole.shape[0]:
        raise FormatError(f"found {whole.shape[0]} rows, expected at least {int(rows.max()) + 1}")
    blocks: Any = whole.arrays["blocks"]
    return GGUFWeight(blocks.reshape(whole.shape[0], -1)[mx.array(rows)], whole.format.title)


def _rows(whole: GGUFWeight, part: str, config: Mapping[str, Any]) -> GGUFWeight:
    heads, shared, head_dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    ends = [0, heads * head_dim, (heads + shared) * head_dim, (heads + 2 * shared) * head_dim]
    at = QUERIES_KEYS_VALUES.index(part)
    if ends[at + 1] > whole.shape[0]:
        raise FormatError(f"found {whole.shape[0]} rows of queries, keys and values, expected {ends[-1]}")
    blocks: Any = whole.arrays["blocks"]
    rows = blocks.reshape(whole.shape[0], -1)[ends[at] : ends[at + 1]]
    return GGUFWeight(rows if len(whole.shape) > 1 else rows.reshape(-1), whole.format.title)


def _half(file: GGUFFile, joined: str, part: str) -> Cut:
    """The gates or the ups of each expert."""
    shape = file.tensors[joined].shape
    if len(shape) != 3 or shape[1] % 2:
        raise FormatError(f"{file.path.name}: tensor {joined!r}: found {shape}, expected [experts, 2 rows, in]")
    half, first = shape[1] // 2, GATES_UPS.index(part)
    return Cut(ROWS, shape[1], ((half * first, half * (first + 1)),))
