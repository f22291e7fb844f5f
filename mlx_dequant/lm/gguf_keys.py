"""The metadata of a GGUF file below its architecture's name."""

from __future__ import annotations

from typing import Any

from ..errors import FormatError
from ..loading import GGUFFile


class Keys:
    """The metadata whose keys begin with the architecture's name."""

    def __init__(self, file: GGUFFile):
        self._file, self._metadata = file.path.name, file.metadata
        self._prefix = file.metadata["general.architecture"]

    def fail(self, key: str, found: Any, expected: str) -> FormatError:
        return FormatError(f"{self._file}: {self._prefix}.{key}: found {found!r}, expected {expected}")

    def get(self, key: str, default: Any, kind: type = int) -> Any:
        value = self._metadata.get(f"{self._prefix}.{key}", default)
        if value is not default and type(value) is not kind:
            raise self.fail(key, value, kind.__name__)
        return value

    def need(self, key: str, kind: type = int) -> Any:
        value = self.get(key, None, kind)
        if value is None:
            raise self.fail(key, None, kind.__name__)
        if kind is int and value <= 0:
            raise self.fail(key, value, "a positive integer")
        return value
