"""Which part of a model each process of a group has: attention by heads, feed-forward blocks by their inner rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import gcd, lcm
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import FormatError
from ..nn import PackedLayer
from ..weights.cut import COLUMNS, ROWS, Cut

# The rows of a layer's modules, by their last names: whose they are, one after the other.
ROWS_OF: Mapping[str, tuple[str, ...]] = {
    "q_proj": ("queries",),
    "k_proj": ("keys",),
    "v_proj": ("keys",),
    "qkv_proj": ("queries", "keys", "keys"),
    "gate_proj": ("hidden",),
    "up_proj": ("hidden",),
    "gate_up_proj": ("hidden", "hidden"),
    "c_fc": ("hidden",),
}
# Whose the columns are. The results of these modules are sums over all processes.
COLUMNS_OF = {"o_proj": "queries", "down_proj": "hidden", "c_proj": "hidden"}
CUT = (*ROWS_OF, *COLUMNS_OF)
# Modules and arrays that every process has whole, and arrays with a number for each query head.
WHOLE = ("gate", "router", "shared_expert_gate")
HEAD_NORMS = ("q_norm", "k_norm")
BY_HEAD = ("sinks",)
# The names of what mlx-lm's attention counts: query heads, key-value heads, query heads of a key-value head.
HEADS = ("n_heads", "num_heads", "num_attention_heads")
KEY_HEADS = ("n_kv_heads", "num_key_value_heads")
SHARES = ("repeats", "num_key_value_groups")
# The models that tests have run in parts.
MODELS = (
    *("llama", "mistral", "ministral3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "glm4"),
    *("granite", "smollm3", "starcoder2", "exaone4", "cohere2", "mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe"),
    "gpt_oss",
)

Units = Callable[[str, int], tuple[int, int]]
Run = tuple[int, int]


@dataclass
class Plan:
    """A process's part of a model.

    Attributes:
        matrices: by module: the rows or columns that it has.
        vectors: by parameter: the same of biases and of numbers for each head.
        dropped: biases that the first process adds alone.
        heads: by attention module: query heads and key-value heads.
        blocks: mixtures that sum over the processes themselves.
    """

    matrices: dict[str, Cut] = field(default_factory=dict)
    vectors: dict[str, Cut] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    heads: dict[str, tuple[int, int]] = field(default_factory=dict)
    blocks: set[str] = field(default_factory=set)

    def cut(self, parameter: str) -> Cut | None:
        """The cut of a matrix, by the name of its module or parameter."""
        return self.matrices.get(parameter.removesuffix(".weight"))


def shapes(layer: Any) -> tuple[int, int]:
    """Rows and columns of a linear layer's matrix, or of each expert's."""
    weight = layer.weight
    return (weight.out_features, weight.in_features) if isinstance(layer, PackedLayer) else weight.shape[-2:]


def plan(model: Any, kind: str, rank: int, size: int, units: Units) -> Plan:
    """The part of process `rank` of `size`.

    Args:
        model: mlx-lm's model, whole.
        kind: its model_type.
        rank: number of the process.
        size: number of processes.
        units: by the name of a module and its columns: by multiples of how many rows, and columns, it can be cut.

    Raises:
        FormatError: the model is not known here, or a module of it cannot be cut into that many parts.
    """
    if kind not in MODELS:
        raise FormatError(f"model_type: found {kind!r}, expected one of {', '.join(MODELS)} over {size} processes")
    result = Plan()
    names = {id(module): name for name, module in model.named_modules()}
    for layer in model.layers:
        _Layer(names[id(layer)], layer, rank, size, units).into(result)
    return result


class _Layer:
    """A layer of a model, in parts."""

    def __init__(self, name: str, layer: nn.Module, rank: int, size: int, units: Units):
        self.name, self.rank, self.size, self.units = name, rank, size, units
        self.modules: dict[str, Any] = {f"{name}.{own}": module for own, module in layer.named_modules() if own}
        self.head: dict[str, int] = {}  # rows of a head, by attention module

    def into(self, result: Plan) -> None:
        """Puts this layer's part into a plan."""
        for parent in dict.fromkeys(_parent(name) for name in self.modules if _last(name) in COLUMNS_OF):
            inner = {name: module for name, module in self.modules.items() if _parent(name) == parent}
            if any("queries" in ROWS_OF.get(_last(name), ()) for name in inner):
                runs = self._attention(parent, inner, result)
            else:
                runs = self._hidden(parent, inner)
            for name, module in inner.items():
                self._matrix(name, module, runs, result)
        for name, module in self.modules.items():
            self._rest(name, module, result)

    def _attention(self, name: str, inner: Mapping[str, Any], result: Plan) -> dict[str, tuple[int, Run]]:
        """Rows of queries, and of keys or values: the whole number and this process's."""
        attention = self.modules[name]
        heads, shared = (count(attention, keys) for keys in (HEADS, KEY_HEADS))
        head, each = shapes(inner[f"{name}.o_proj"])[1] // heads, heads // shared
        row, column = self._units(inner)
        fits = (n for n in range(1, shared) if n * head % row == 0 and n * each * head % column == 0)
        unit = next(fits, shared)  # key-value heads whose parts split no word, group or block
        if -(-shared // unit) >= self.size:
            first, end = part(shared, unit, self.size, self.rank)
            queries, keys = (first * each, end * each), (first, end)
        else:
            queries, keys = self._within_heads(name, shared, each, head, (row, column))
        self.head[name] = head
        result.heads[name] = queries[1] - queries[0], keys[1] - keys[0]
        for own in BY_HEAD:
            if own in attention:
                result.vectors[f"{name}.{own}"] = Cut(ROWS, heads, (queries,))
        return {
            "queries": (heads * head, (queries[0] * head, queries[1] * head)),
            "keys": (shared * head, (keys[0] * head, keys[1] * head)),
        }

    def _within_heads(self, name: str, shared: int, each: int, head: int, units: tuple[int, int]) -> tuple[Run, Run]:
        """Query heads and key-value heads where several processes have the same key-value head."""
        ends = [-(-self.size * number // shared) for number in range(shared + 1)]
        own = max(number for number in range(shared) if ends[number] <= self.rank)
        most, step = -(-self.size // shared), lcm(*units) // gcd(head, lcm(*units))
        if self.size < shared or head % units[0] or each % step or each // step < most:
            raise FormatError(
                f"{name}: found {shared} key-value heads, each for {each} query heads of {head} rows, cut by multiples "
                f"of {units[0]} rows and {units[1]} columns, expected a part for each of {self.size} processes"
            )
        first, end = part(each, step, ends[own + 1] - ends[own], self.rank - ends[own])
        return (own * each + first, own * each + end), (own, own + 1)

    def _hidden(self, name: str, inner: Mapping[str, Any]) -> dict[str, tuple[int, Run]]:
        """Rows of gates and ups: the whole number and this process's."""
        down = next(own for own in inner if _last(own) in COLUMNS_OF)
        rows, unit = shapes(inner[down])[1], lcm(*self._units(inner))
        if -(-rows // unit) < self.size:
            raise FormatError(
                f"{name}: found {rows} inner rows, cut by multiples of {unit}, expected a part for each of "
                f"{self.size} processes"
            )
        return {"hidden": (rows, part(rows, unit, self.size, self.rank))}

    def _units(self, inner: Mapping[str, Any]) -> tuple[int, int]:
        """What the rows of the first modules, and the columns of the last one, are cut by."""
        units = {name: self.units(name, shapes(layer)[1]) for name, layer in inner.items() if _last(name) in CUT}
        row = lcm(*(unit for name, (unit, _) in units.items() if _last(name) in ROWS_OF))
        return row, lcm(*(unit for name, (_, unit) in units.items() if _last(name) in COLUMNS_OF))

    def _matrix(self, name: str, layer: Any, runs: Mapping[str, tuple[int, Run]], result: Plan) -> None:
        last = _last(name)
        if last in COLUMNS_OF:
            whole, run = runs[COLUMNS_OF[last]]
            cut = Cut(COLUMNS, whole, (run,))
            if "bias" in layer and self.rank:
                result.dropped.add(f"{name}.bias")
        elif last in ROWS_OF:
            length, ranges = 0, []
            for whole, (first, end) in (runs[own] for own in ROWS_OF[last]):
                ranges.append((length + first, length + end))
                length += whole
            cut = Cut(ROWS, length, tuple(ranges))
            if "bias" in layer:
                result.vectors[f"{name}.bias"] = cut
        else:
            return
        found = shapes(layer)[0 if cut.axis == ROWS else 1]
        if found != cut.length:
            raise FormatError(f"{name}: found {found} {cut.axis}, expected {cut.length}")
        result.matrices[name] = cut

    def _rest(self, name: str, module: Any, result: Plan) -> None:
        """Checks that a module which is not cut is one that each process may have whole."""
        if getattr(module, "sharding_group", self) is None:
            result.blocks.add(name)
        own = {key for key, array in module.items() if isinstance(array, mx.array) and not key.startswith("_")}
        if name in result.matrices or all(f"{name}.{key}" in result.vectors for key in own):
            return
        parent, last = _parent(name), _last(name)
        is_norm = own <= {"weight", "bias"} and module.weight.ndim == 1
        if parent in self.head:
            known = is_norm and last in HEAD_NORMS and module.weight.size == self.head[parent]
        else:
            known = last in WHOLE or (is_norm and parent == self.name)
        if not known:
            found = ", ".join(f"{key} {module[key].shape}" for key in sorted(own))
            raise FormatError(f"{name}: found {found}, of which no part for each of {self.size} processes is known")


def count(attention: Any, keys: tuple[str, ...]) -> int:
    """How many heads an attention module says that it has, by one of these names."""
    return next(getattr(attention, key) for key in keys if hasattr(attention, key))


def part(number: int, unit: int, size: int, rank: int) -> Run:
    """Part `rank` of `size` of a number of things, in whole units; the first parts are the larger ones."""
    units = -(-number // unit)
    first, end = (min(-(-units * at // size) * unit, number) for at in (rank, rank + 1))
    return first, end


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
