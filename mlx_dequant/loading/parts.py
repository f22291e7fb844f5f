"""The tensors that a quantized module of a folder consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..weights.cut import Places
from .folder import Folder

FLOAT8, EXPONENTS = "F8_E4M3", ("F8_E8M0", "U8")
FLOATS = ("F16", "BF16", "F32")


class Kind(NamedTuple):
    """What a tensor has to be: the file's names of its type, and its number of axes; None for any."""

    types: tuple[str, ...]
    axes: int | None = None


class Parts:
    """The tensors of a module, by the last part of their names, read when asked for.

    Attributes:
        types: the file's name of each tensor's type.

    Args:
        folder: where they are.
        names: the names of tensors by their last parts.
        places: what to read of each; by default all.
        instead: tensors that are not read but given; None for one to leave out.
    """

    def __init__(
        self,
        folder: Folder,
        names: Mapping[str, str],
        places: Callable[[str], Places | None] | None = None,
        instead: Mapping[str, mx.array | None] | None = None,
    ):
        self._instead = dict(instead or {})
        self._folder, self._places = folder, places
        self._names = {part: name for part, name in names.items() if self._instead.get(part, part) is not None}
        self.types = {part: folder.tensors[name].tensors[name].dtype for part, name in names.items()}

    def __contains__(self, part: object) -> bool:
        return part in self._names

    def array(self, part: str) -> mx.array:
        """A tensor. Float8 and exponents are uint8."""
        name, given = self._names[part], self._instead.get(part)
        if given is not None:
            return given
        return self._folder.tensors[name].read(name, raw=True, places=self._places(part) if self._places else None)

    def each(self, part: str) -> Iterator[NDArray[Any]]:
        """The matrices of a stack, read one by one."""
        name, shape = self._names[part], self.shape(part)
        for at in range(shape[0]):
            places = Places(part, -len(shape), shape[0], [(at, at + 1)])
            yield np.asarray(self._folder.tensors[name].read(name, raw=True, places=places))[0]

    def cut(self, places: Callable[[str], Places | None], instead: Mapping[str, mx.array | None]) -> Parts:
        """The same tensors, of which only some places are read."""
        return Parts(self._folder, self._names, places, instead)

    def shape(self, part: str) -> tuple[int, ...]:
        """A tensor's shape in its file."""
        name = self._names[part]
        return self._folder.tensors[name].tensors[name].shape

    def get(self, part: str) -> mx.array | None:
        return self.array(part) if part in self else None

    def numpy(self, part: str) -> NDArray[Any]:
        """A tensor as NumPy has it: integers in their own type, floats, float8 and exponents as float32."""
        array, kind = self.array(part), self.types[part]
        if kind == FLOAT8:
            return E4M3[np.asarray(array)]
        if kind == "F8_E8M0":
            return exponents(np.asarray(array))
        return np.asarray(array.astype(mx.float32) if kind in FLOATS else array)

    def check(self, part: str, kind: Kind) -> None:
        """Raises FormatError unless a tensor has one of a kind's types, and as many axes."""
        types, axes = kind
        if self.types[part] not in types:
            raise FormatError(f"{part}: found {self.types[part]}, expected {' or '.join(types)}")
        if axes is not None and len(self.shape(part)) != axes:
            raise FormatError(f"{part}: found shape {self.shape(part)}, expected {axes} axes")


def _e4m3() -> NDArray[np.float32]:
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    value = np.ldexp(np.where(exponent, 8 + fraction, fraction).astype(np.float32), np.maximum(exponent, 1) - 10)
    value[code & 127 == 127] = np.nan
    return np.where(code & 128, -value, value).astype(np.float32)


# The values of float8 e4m3fn, which has no infinities.
E4M3 = _e4m3()


def exponents(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The powers of two that e8m0 bytes stand for: 2**(code - 127), NaN for 255."""
    values = np.ldexp(np.float32(1), np.minimum(codes, 254).astype(np.int32) - 127)
    return np.where(codes == 255, np.float32(np.nan), values).astype(np.float32)
