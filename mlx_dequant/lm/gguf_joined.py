"""Tensors that some GGUF files have joined, and their parts, still packed: a row consists of whole blocks.

Files of before April 2024 have a tensor for each expert, where later ones have a stack.
"""

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
from ..weights.stack import stack_of

# In the order of their rows.
QUERIES_KEYS_VALUES = ("attn_q", "attn_k", "attn_v")
GATES_UPS = ("ffn_gate_exps", "ffn_up_exps")
STACK = "_exps"
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
        """A tensor; its rows of the one that some files have instead, or the stack of its experts.

        With a cut, a part of it; of joined queries, keys and values the part is cut after it is read.

        Raises:
            FormatError: the file has none of these, a joined one has another shape, or experts differ.
        """
        if name in self._file.tensors:
            self.unused.discard(name)
            return self._file.weight(name, cut)
        if alone := experts(self._file, name):
            self.unused.difference_update(alone)
            return _stack(self._file, alone, cut)
        layer, part, kind = ("", *name.rsplit(".", 2))[-3:]
        joined = f"{layer}.{JOINED.get(part)}.{kind}"
        self.unused.discard(joined)
        return _part(self._file, joined, name, part, self._config, cut)


def experts(file: GGUFFile, name: str) -> list[str]:
    """The names of a stack's experts where each is a tensor by itself; else none.

    Raises:
        FormatError: the file has the first, and not all.
    """
    stack, _, kind = name.rpartition(".")
    stem = stack.removesuffix(STACK)
    if stem == stack or f"{stem}.0.{kind}" not in file.tensors:
        return []
    count = file.metadata[f"{file.metadata['general.architecture']}.expert_count"]
    names: list[str] = []
    for number in range(count):
        names.append(f"{stem}.{number}.{kind}")
        if names[-1] not in file.tensors:
            raise _not_found(file, names[-1])
    return names


def _not_found(file: GGUFFile, name: str) -> FormatError:
    return FormatError(f"{file.path.name}: tensor {name!r}: not found")


def _stack(file: GGUFFile, names: list[str], cut: Cut | None) -> Any:
    try:
        return stack_of(len(names), (file.weight(name, cut) for name in names))
    except FormatError as error:
        raise FormatError(f"{file.path.name}: tensors {names[0]!r} to {names[-1]!r}: {error}") from None


def _part(file: GGUFFile, joined: str, name: str, part: str, config: Mapping[str, Any], cut: Cut | None) -> GGUFWeight:
    if joined not in file.tensors:
        raise _not_found(file, name)
    whole = part in QUERIES_KEYS_VALUES
    found = file.weight(joined, None if whole else _half(file, joined, part))
    try:
        found = _rows(found, part, config) if whole else found
        return found if cut is None else found.cut(cut)
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
