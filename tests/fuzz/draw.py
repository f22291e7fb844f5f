"""Numbers out of bytes: what a fuzzer changes byte by byte becomes sizes, choices and contents."""

from __future__ import annotations

from typing import Any

import numpy as np


class Draw:
    """Reads numbers off the front of some bytes. Where they end, zeros follow."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def bytes(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        self.at += count
        return part.ljust(count, b"\0")

    def below(self, limit: int) -> int:
        return self.bytes(1)[0] % limit

    def one_of(self, *choices: Any) -> Any:
        return choices[self.below(len(choices))]

    def array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """The bytes that are left, repeated."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pattern = self.bytes(min(size, 256))
        return np.frombuffer((pattern * (size // max(len(pattern), 1) + 1))[:size], dtype).reshape(shape)
